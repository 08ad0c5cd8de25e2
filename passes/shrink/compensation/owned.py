"""The numbers that one layer alone reads, and so may change: a state, or the part of one that `split` takes out.

%q, %kv = split(%in_proj_weight) {axis=0, sizes=(16, 32)}      nn.MultiheadAttention, where keys are others than queries
%y = linear(%x, %q, %q_bias)                                   owns rows 0 to 15 of %in_proj_weight
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.passes.remove.common import int_of, ints_of
from graphopt.passes.shrink.compensation.words import operand_name

__all__ = ["Owned", "Part", "own_numbers", "own_state", "part_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """Where a result of `split` is in what was split."""

    whole: Value
    axis: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Owned:
    """A state of which a layer owns all, or a part."""

    state: State
    part: Part | None = None

    def moved(self, change: torch.Tensor) -> torch.Tensor:
        """The numbers of the whole state with a change added to what is owned, in its dtype."""
        assert self.state.data is not None, "both graphs run, so they have numbers"
        numbers = self.state.data.precise().clone()
        owned = numbers if self.part is None else numbers.narrow(self.part.axis, self.part.start, self.part.size)
        owned += change.to(numbers.device)
        dtype: torch.dtype = getattr(torch, self.state.type.dtype.torch_name)
        return numbers.to(dtype).contiguous()


def own_numbers(graph: Graph, node: Node, index: int) -> Owned | str:
    """What a node alone reads at an operand, or why its numbers can't be changed."""
    operand: Operand = node.operands[index] if index < len(node.operands) else None
    part = part_of(operand)
    state = None if part is None else graph.state_of(part.whole)
    if not isinstance(operand, Value) or part is None or state is None:
        found = own_state(graph, node, index)
        return found if isinstance(found, str) else Owned(found)
    if operand.use_count > 1 or state.value.use_count > 1 or state.tied:
        return f"its {operand_name(node, index)} is shared"
    return Owned(state, part)


def own_state(graph: Graph, node: Node, index: int) -> State | str:
    """The state that a node alone reads at an operand, or why its numbers can't be changed."""
    operand: Operand = node.operands[index] if index < len(node.operands) else None
    if operand is None:
        return f"it has no {operand_name(node, index)}"
    state = graph.state_of(operand)
    if state is None:
        return f"its {operand_name(node, index)} is computed at run time"
    if state.value.use_count > 1 or state.tied:
        return f"its {operand_name(node, index)} is shared"
    return state


def part_of(operand: Operand) -> Part | None:
    """Where a value is in what `split` made it from; None for others."""
    node = operand.producer if isinstance(operand, Value) else None
    if node is None or node.op != "split":
        return None
    sizes = ints_of(node.attrs["sizes"])
    index = node.results.index(operand)
    return Part(node.value(0), int_of(node.attrs["axis"]), sum(sizes[:index]), sizes[index])
