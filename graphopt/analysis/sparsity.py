"""How many zeros the parameters hold, and in which patterns.

    weight       f32[64,64,3,3]   zeros 0.80   zero rows 3   2:4 no

Rows are slices along axis 0 (output channels), columns along axis 1 (input channels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.analysis.table import text_table
from graphopt.errors import IRError
from graphopt.ir.graph import Graph, State
from graphopt.ir.types import Sparsity, SparsityPattern

if TYPE_CHECKING:
    import torch

__all__ = ["StateSparsity", "annotation_holds", "block_ratio", "keeps_n_of_m", "sparsity", "sparsity_table"]


@dataclass(frozen=True, slots=True)
class StateSparsity:
    """Zeros of one state; -0.0 is a zero, NaN is not.

    `zero_rows` and `zero_columns` list the slices along axis 0 and 1 that are all zero (empty for fewer axes).
    `two_of_four` is True when of every four consecutive elements along axis 1 at most two are not zero.
    `holds` tells whether the type's sparsity annotation is true of the numbers; None without annotation.
    """

    name: str
    type_text: str
    elements: int
    zeros: int
    zero_rows: tuple[int, ...]
    zero_columns: tuple[int, ...]
    two_of_four: bool
    holds: bool | None

    @property
    def ratio(self) -> float:
        """Fraction of zeros; 0 for a state without elements."""
        return self.zeros / self.elements if self.elements else 0.0


def sparsity(graph: Graph) -> Iterator[StateSparsity]:
    """Statistics of each state that has numbers, one at a time, in the graph's order.

    States without data (a graph parsed from text) are left out: nothing is known about them.
    """
    for state in graph.states.values():
        if state.data is not None:
            yield _statistics(state, state.data.tensor())


def sparsity_table(graph: Graph) -> str:
    """The statistics as a text table."""
    header = ("state", "type", "zeros", "zero rows", "zero columns", "2:4", "annotation")
    rows = [
        (
            found.name,
            found.type_text,
            f"{found.ratio:.4f}",
            str(len(found.zero_rows)),
            str(len(found.zero_columns)),
            "yes" if found.two_of_four else "no",
            {None: "", True: "true", False: "WRONG"}[found.holds],
        )
        for found in sparsity(graph)
    ]
    return "\n".join(text_table(header, rows, right=frozenset({2, 3, 4})))


def _statistics(state: State, tensor: torch.Tensor) -> StateSparsity:
    if tensor.is_meta:
        raise IRError(f"%{state.name} is on the meta device, its zeros can't be counted", fix="load the weights first")
    filled = tensor.detach() != 0
    zeros = filled.numel() - int(filled.sum())
    annotation = state.type.sparsity
    return StateSparsity(
        state.name,
        state.type.text,
        filled.numel(),
        zeros,
        _empty_slices(filled, 0),
        _empty_slices(filled, 1),
        filled.dim() >= 2 and keeps_n_of_m(filled, 2, 4, 1),
        None if annotation is None else _holds(filled, zeros, annotation),
    )


def annotation_holds(numbers: torch.Tensor, annotation: Sparsity) -> bool:
    """True when numbers have at least the annotated zeros, in the annotated pattern."""
    filled = numbers.detach() != 0
    return _holds(filled, filled.numel() - int(filled.sum()), annotation)


def _empty_slices(filled: torch.Tensor, axis: int) -> tuple[int, ...]:
    if filled.dim() <= axis:
        return ()
    counts = filled.movedim(axis, 0).flatten(1).sum(1) if filled.dim() > 1 else filled.long()
    return tuple(int(index) for index in (counts == 0).nonzero().flatten())


def keeps_n_of_m(filled: torch.Tensor, n: int, m: int, axis: int) -> bool:
    """Of every m consecutive elements along `axis` at most n are not zero; the axis has to be a multiple of m."""
    size = filled.shape[axis]
    if size == 0 or size % m:
        return False
    groups = filled.movedim(axis, -1).reshape(-1, size // m, m)
    return bool((groups.sum(-1) <= n).all())


def _holds(filled: torch.Tensor, zeros: int, annotation: Sparsity) -> bool:
    """At least the annotated fraction is zero (to one element), in the annotated pattern."""
    enough = zeros >= int(annotation.ratio * filled.numel())
    match annotation.pattern:
        case SparsityPattern.UNSTRUCTURED:
            return enough
        case SparsityPattern.N_M:
            n, m = annotation.shape
            return filled.dim() > annotation.axis and keeps_n_of_m(filled, n, m, annotation.axis)
        case SparsityPattern.BLOCK:
            return block_ratio(filled, annotation.shape) >= annotation.ratio - 1e-12


def block_ratio(filled: torch.Tensor, shape: tuple[int, int]) -> float:
    """Of a mask of what is not zero: the fraction of elements in blocks that are all zero.

    Blocks lie over axis 0 and the rest flattened; ragged ends count as blocks.
    """
    rows, columns = shape
    matrix = filled.flatten(1) if filled.dim() > 1 else filled.reshape(-1, 1)
    height, width = matrix.shape
    if not matrix.numel():
        return 1.0
    padded = matrix.new_zeros((-(-height // rows) * rows, -(-width // columns) * columns))
    padded[:height, :width] = matrix
    blocks = padded.reshape(padded.shape[0] // rows, rows, -1, columns).any(3).any(1)
    covered = blocks.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[:height, :width]
    return 1.0 - float(covered.sum()) / matrix.numel()
