"""Keep one of several constants and untrained buffers with the same bytes.

    constant %mask: f32[8,8]           %a = add(%x, %mask)
    constant %mask_1: f32[8,8]         %b = add(%y, %mask_1)
    -> %b = add(%y, %mask), and %mask_1 is gone

Two states are the same when kind, dtype, shape and every byte are (0.0 and -0.0 differ, a NaN equals itself). The
name of a buffer that goes is kept as a tie of the one that stays, so that it is still in the `state_dict`.
Running statistics and parameters stay apart: training moves them (`merge-duplicate-parameters` is for deployment).

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from graphopt.ir.graph import State
from graphopt.passes.remove.states import is_mutable
from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.rewrite.derived import LateData
from graphopt.rewrite.rewriter import Rewriter

if TYPE_CHECKING:
    import torch

__all__ = ["MergeDuplicateConstants"]

_SAMPLES = 64
"""Numbers looked at before a whole tensor is read."""


@dataclass(frozen=True)
class MergeDuplicateConstants(Pass):
    """Keep one of several constants or buffers with the same bytes."""

    name = "merge-duplicate-constants"
    numeric = NumericClass.EXACT
    parameters: ClassVar[bool] = False
    """True when parameters and running statistics are merged too."""

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Group the states that are read by what they hold, and keep the first of each group."""
        merged = 0
        skipped: list[tuple[str, str]] = []
        for group in _same_bytes(list(rewriter.graph.states.values())):
            kept: list[State] = []
            for state in group:
                if reason := self._obstacle(state):
                    skipped.append(
                        (state.name, f"holds the bytes of %{group[0].name if group[0] is not state else group[1].name}, but {reason}")
                    )
                else:
                    kept.append(state)
            merged += _merge(rewriter, kept)
        return Outcome(merged, tuple(skipped))

    def _obstacle(self, state: State) -> str:
        if self.parameters:
            return ""
        if state.kind == "param":
            return "is a parameter, needs a constant or buffer" if not state.trainable else "trains on its own"
        return "training writes to it" if is_mutable(state.value) else ""


def _merge(rewriter: Rewriter, states: list[State]) -> int:
    """Let the readers of all states read the first; returns how many went."""
    if len(states) < 2:
        return 0
    first = states[0]
    tied = list(first.tied)
    for state in states[1:]:
        rewriter.replace_value(state.value, first.value)
        rewriter.remove_state(state.name)
        if state.kind != "constant":
            tied += [state.name, *state.tied]
    rewriter.update_state(replace(first, tied=tuple(tied), trainable=any(state.trainable for state in states)))
    return len(states) - 1


def _same_bytes(states: list[State]) -> Iterable[list[State]]:
    """Groups of two or more states that hold the same, found by type, then some numbers, then a hash of all bytes."""
    groups: list[list[State]] = [[state for state in states if state.data is not None and state.value.use_count]]
    for key in (_by_type, _by_sample, _by_digest):
        refined: list[list[State]] = []
        for group in groups:
            found: dict[object, list[State]] = {}
            for state in group:
                found.setdefault(key(state), []).append(state)
            refined += [members for members in found.values() if len(members) > 1]
        groups = refined
    return groups


def _by_type(state: State) -> object:
    return state.kind, state.type


def _by_sample(state: State) -> object:
    assert state.data is not None, "states without numbers were left out"
    flat = state.data.tensor().detach().flatten()  # a view, unless strides are odd
    return _bytes_of(flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES])


def _by_digest(state: State) -> object:
    assert state.data is not None, "states without numbers were left out"
    digest = hashlib.blake2b(_bytes_of(state.data.tensor()), digest_size=32).digest()
    if not isinstance(state.data, LateData):
        return digest, None
    # The same after rounding is not the same in the float64 world.
    return digest, hashlib.blake2b(_bytes_of(state.data.precise()), digest_size=32).digest()


def _bytes_of(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
