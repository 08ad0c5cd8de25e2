"""A graph at fixed sizes: shapes and dims as integers."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import BackendError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Expression, evaluate_dim, symbols_of
from graphopt.ir.graph import Node, Value

__all__ = ["Shapes"]


class Shapes:
    """Shapes of values where each symbol has a size. A plan is made for one set of sizes."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.sizes = dict(sizes or {})
        self._known: dict[Value, tuple[int, ...]] = {}

    def of(self, value: Value) -> tuple[int, ...]:
        """The shape of a value.

        Raises:
            BackendError: a symbol has no size.
        """
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = tuple(self.dim(dim) for dim in value.shape)
        return found

    def dim(self, dim: object) -> int:
        """A dim as an integer."""
        if isinstance(dim, bool) or not isinstance(dim, (int, Expression)):
            raise BackendError(f"{dim!r} is no dimension")
        size = evaluate_dim(dim, self.sizes)
        if not isinstance(size, int):
            raise BackendError(f"dimension {dim} has no size yet")
        return size

    def dims(self, attribute: Attribute) -> tuple[int, ...]:
        """A tuple of dims as integers."""
        if not isinstance(attribute, tuple):
            raise BackendError(f"{attribute!r} is no tuple of dimensions")
        return tuple(self.dim(dim) for dim in attribute)

    def is_known(self, node: Node) -> bool:
        """True when all shapes of a node's values are known."""
        values = [operand for operand in node.operands if isinstance(operand, Value)]
        return all(_is_bound(value, self.sizes) for value in (*values, *node.results))


def _is_bound(value: Value, sizes: Mapping[str, int]) -> bool:
    return all(symbols_of(dim) <= sizes.keys() for dim in value.shape)
