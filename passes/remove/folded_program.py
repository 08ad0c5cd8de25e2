"""A part of a graph that depends on constants alone, run once for all the values that the rest reads.

The part is a graph of its own, run by the reference interpreter: in the declared dtypes, which gives the bits
that the model itself would compute, and in float64 for checks. Both runs happen when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.ir.data import Data
from graphopt.ir.graph import Graph, GraphEditor, Node, Value
from graphopt.rewrite.derived import LateData

if TYPE_CHECKING:
    import torch

__all__ = ["FoldedData", "FoldedProgram"]


class FoldedProgram:
    """Nodes whose operands are literals, states or results of one another.

    `nodes` are in execution order, `wanted` are the results that others read, `sources` maps the states that
    are read to their numbers; `device` is where the results shall be, None for where they are computed.
    """

    def __init__(
        self, nodes: Sequence[Node], wanted: Sequence[Value], sources: dict[Value, Data], device: torch.device | None = None
    ) -> None:
        graph = Graph("folded")
        editor = GraphEditor(graph)
        mapping: dict[Value, Value] = {source: editor.add_input(source.name, source.type) for source in sources}
        for node in nodes:
            operands = tuple(mapping[operand] if isinstance(operand, Value) else operand for operand in node.operands)
            made = editor.insert(node.op, operands, node.attrs, [(r.name, r.type) for r in node.results], source=node.source)
            mapping.update(zip(node.results, made.results, strict=True))
        editor.set_outputs([mapping[value] for value in wanted])
        self._graph: Graph | None = graph
        self._sources = tuple(sources.values())
        self._device = device
        self._exact: tuple[torch.Tensor, ...] | None = None
        self._precise: tuple[torch.Tensor, ...] | None = None

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The wanted values in their declared dtypes.

        Raises:
            BackendError: an op failed on these numbers.
        """
        if self._exact is None:
            self._exact = self._run(precise=False)
        return self._exact

    def precise(self) -> tuple[torch.Tensor, ...]:
        """The wanted values in float64, from float64 sources as long as those are known."""
        if self._graph is None:
            return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in self.tensors())
        if self._precise is None:
            self._precise = self._run(precise=True)
        return self._precise

    def freeze(self) -> None:
        """Keep the numbers in the declared dtypes and forget where they came from."""
        self.tensors()
        self._graph, self._sources, self._precise = None, (), None

    def _run(self, *, precise: bool) -> tuple[torch.Tensor, ...]:
        from graphopt.backends.reference.interpreter import Interpreter

        assert self._graph is not None, "frozen programs have their numbers"
        inputs = [source.precise() if precise else source.tensor() for source in self._sources]
        outputs = Interpreter(self._graph, precise=precise).run_within([tensor.detach() for tensor in inputs], {})
        return tuple(_own(tensor, inputs).to(self._device or tensor.device) for tensor in outputs)


class FoldedData(LateData):
    """One result of a program, as the numbers of a state."""

    __slots__ = ("_index", "_program")

    def __init__(self, program: FoldedProgram, index: int) -> None:
        self._program = program
        self._index = index

    def tensor(self) -> torch.Tensor:
        """The numbers in the declared dtype."""
        return self._program.tensors()[self._index]

    def precise(self) -> torch.Tensor:
        """The numbers in float64."""
        return self._program.precise()[self._index]

    def freeze(self) -> None:
        """Compute the numbers and forget the program; the other results of it are kept too."""
        self._program.freeze()


def _own(tensor: torch.Tensor, sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensor in memory of its own: a view of a source would change when training changes the source.

    Strides stay as they are where they can: a kernel may round differently on another layout.
    """
    storage = tensor.untyped_storage()
    shared = any(source.untyped_storage().data_ptr() == storage.data_ptr() for source in sources)
    return tensor.clone() if shared or storage.nbytes() > tensor.numel() * tensor.element_size() else tensor
