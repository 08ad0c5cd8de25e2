"""What the functions of a pattern rule get: the match, and an emitter that makes nodes and derived parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.errors import PassError
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.rewrite.rewriter import Rewriter

if TYPE_CHECKING:
    import torch

__all__ = ["Emitter", "Match"]


@dataclass(frozen=True)
class Match:
    """A pattern found in a graph: `m.x` is the operand of variable `x`, `m.conv2d` the node of that name.

    `nodes` and `operands` are the same as mappings; `matched` are all nodes, the last one of the pattern first.
    """

    nodes: Mapping[str, Node]
    operands: Mapping[str, Operand]
    matched: tuple[Node, ...]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self.operands:
            return self.operands[name]
        if name in self.nodes:
            return self.nodes[name]
        raise AttributeError(f"the pattern has no '{name}', it has {', '.join([*self.operands, *self.nodes])}")

    @property
    def graph(self) -> Graph:
        """The graph that the pattern was found in."""
        graph = self.matched[0].graph
        assert graph is not None, "a match is of nodes that are in a graph"
        return graph

    def not_states(self, *names: str) -> str | None:
        """Why some of these variables are no parameters, buffers or constants, or None when all are (or are missing)."""
        for name in names:
            operand = self.operands[name]
            if isinstance(operand, Value) and self.graph.state_of(operand) is None:
                return f"'{name}' is %{operand.name}, which is computed at run time, needs a parameter"
        return None


class Emitter:
    """What a replacement function gets as `op`: `op.conv2d(m.x, w, b, **m.conv2d.attrs)` makes a node, returns its result.

    Nodes are made before the last matched node and carry its source. A node with several results gives a tuple.
    """

    def __init__(self, rewriter: Rewriter, anchor: Node) -> None:
        self._rewriter = rewriter
        self._anchor = anchor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def make(*operands: Operand, **attrs: Attribute) -> Any:
            results = self._rewriter.create(name, operands, attrs, before=self._anchor).results
            return results[0] if len(results) == 1 else results

        return make

    def derive(
        self,
        name: str,
        function: Callable[..., torch.Tensor],
        *sources: Operand,
        like: Value | None = None,
        exact: bool = False,
    ) -> Value:
        """A parameter whose numbers are `function(*sources)`, computed late and in float64.

        Sources are parameters, literals or None, which the function gets as tensors, numbers and None. The new
        parameter has the type of `like`, by default that of the first source.

        Raises:
            PassError: no source is a parameter.
            IRError: a source is computed at run time.
        """
        states = [source for source in sources if isinstance(source, Value)]
        if not states:
            raise PassError(f"'{name}' is derived from {sources}, needs at least one parameter")

        def compute(*tensors: torch.Tensor) -> torch.Tensor:
            rest = iter(tensors)
            return function(*(next(rest) if isinstance(source, Value) else source for source in sources))

        model = (like or states[0]).type
        return self._rewriter.derive(name, compute, states, model.with_shape(model.shape), exact=exact)
