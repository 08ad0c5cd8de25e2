"""Sizes of captured tensors as graph dimensions.

torch.export gives a symbolic size as a sympy expression over symbols of its own (`s77`):

    2*s77 - 1   ->   2*batch - 1

The expression tree is walked node by node; its text is never parsed or evaluated. A symbol gets the name
that the user gave to the dimension, else one made from the input and axis where it is first seen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import RESERVED_WORDS
from graphopt.ir.dims import Dim, max_dim, min_dim, product, symbol
from graphopt.ir.graph import GraphEditor, Range

if TYPE_CHECKING:
    import sympy

__all__ = ["DimReader", "identifier"]

UNBOUNDED = 2**62
"""Bounds of torch.export beyond this mean that the size is not bounded."""


def identifier(text: str) -> str:
    """`text` as a name that a symbolic dimension may have."""
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in text)
    if not cleaned or cleaned[0].isdigit() or cleaned in RESERVED_WORDS:
        cleaned = f"dim_{cleaned}"
    return cleaned


class DimReader:
    """Turns sizes of fake tensors into dimensions of one graph, and declares its symbols there.

    `ranges` are the declared ranges by torch's symbol name.
    """

    def __init__(self, editor: GraphEditor, ranges: Mapping[str, tuple[int, int | None]] | None = None) -> None:
        self._editor = editor
        self._ranges = dict(ranges or {})
        self._known: dict[str, Dim] = {}
        self._names: dict[str, str] = {}
        self._cache: dict[Any, Dim] = {}

    def for_region(self, editor: GraphEditor) -> DimReader:
        """A reader for a sub-graph: the same names and ranges, declared in that sub-graph as they are met."""
        reader = DimReader(editor, self._ranges)
        reader._names = dict(self._names)
        return reader

    def suggest(self, size: Any, name: str, *, shared: bool = False) -> None:
        """Name the symbol behind a size `name`, unless it has a name or is no bare symbol.

        `shared` says that sizes of this name are equal; otherwise a name that is taken gets a number.
        """
        symbol_name = _symbol_name(size)
        if symbol_name is None or symbol_name in self._known:
            return
        if shared and name in self._editor.graph.symbols:
            self._known[symbol_name] = symbol(name)
        else:
            self._declare(symbol_name, name)

    def dim(self, size: object) -> Dim:
        """A size as a dimension.

        Raises:
            UnsupportedModelError: the expression holds something that dimensions can't express.
        """
        if isinstance(size, bool):
            return int(size)
        if isinstance(size, int):
            return size
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            if expression not in self._cache:
                self._cache[expression] = self._walk(expression)
            return self._cache[expression]
        raise UnsupportedModelError(f"a size is {size!r}, needs an integer or a symbolic integer")

    def shape(self, sizes: object) -> tuple[Dim, ...]:
        """The shape of a fake tensor."""
        return tuple(self.dim(size) for size in sizes)  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]  # torch.Size of SymInt

    def _declare(self, symbol_name: str, hint: str) -> Dim:
        name = identifier(hint)
        taken = self._editor.graph.symbols
        number = 1
        while name in taken:
            name = f"{identifier(hint)}_{number}"
            number += 1
        minimum, maximum = self._ranges.get(symbol_name, (0, None))
        self._known[symbol_name] = self._editor.add_symbol(name, Range(minimum, maximum))
        self._names[symbol_name] = name
        return self._known[symbol_name]

    def _walk(self, root: sympy.Basic) -> Dim:
        """Post-order over the expression tree, without recursion."""
        results: dict[Any, Dim] = {}
        pending: list[tuple[Any, bool]] = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if node in results:
                continue
            if ready or not node.args:
                results[node] = self._combine(node, [results[child] for child in node.args])
            else:
                pending.append((node, True))
                pending.extend((child, False) for child in node.args)
        return results[root]

    def _combine(self, node: Any, children: list[Dim]) -> Dim:
        if node.is_Integer:
            return int(node)
        if node.is_Symbol:
            name = str(node.name)
            known = self._known.get(name)
            return known if known is not None else self._declare(name, self._names.get(name, name))
        kind = type(node).__name__
        combine = _COMBINE.get(kind)
        if combine is not None:
            return reduce(combine, children)
        if kind == "CeilDiv":
            return -((-children[0]) // children[1])
        if kind == "Pow" and isinstance(children[1], int) and children[1] >= 0:
            return product((children[0],) * children[1])
        raise UnsupportedModelError(
            f"a size is computed as {node}, which holds {kind}; dimensions can be built with + - * // % min max",
            fix="capture with a fixed size on that axis (leave it out of dynamic=)",
        )


_COMBINE: dict[str, Callable[[Any, Any], Dim]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": max_dim,
    "Min": min_dim,
}
"""Operations by the name of torch's sympy class."""


def _symbol_name(size: Any) -> str | None:
    if not isinstance(size, torch.SymInt):
        return None
    expression: Any = size.node.expr
    return str(expression.name) if expression.is_Symbol else None
