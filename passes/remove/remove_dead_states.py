"""Remove states that nobody reads and that are not part of the model's `state_dict`.

    constant %mask: f32[4]        (unused)   -> gone
    param %conv.weight_folded     (unused, derived by a pass)   -> gone
    param %head.weight            (unused)   -> stays, load_state_dict expects it

With `model_states=true` unused parameters and buffers of the model go as well, which saves memory in a
deployed artifact but changes its `state_dict`.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.rewrite.derived import LateData
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["RemoveDeadStates"]


@dataclass(frozen=True)
class RemoveDeadStates(Pass):
    """Drop unread constants and derived tensors; with `model_states` also unread parameters and buffers."""

    name = "remove-dead-states"
    numeric = NumericClass.EXACT

    model_states: bool = field(
        default=False, metadata={"help": "unread parameters and buffers go too, and so do their names in the state_dict"}
    )

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Look at every state once."""
        removed = 0
        skipped: list[tuple[str, str]] = []
        for name, state in tuple(rewriter.graph.states.items()):
            if state.value.use_count:
                continue
            if self.model_states or state.kind == "constant" or isinstance(state.data, LateData):
                rewriter.remove_state(name)
                removed += 1
            else:
                skipped.append((name, f"unread {state.kind} of the model's state_dict, goes only with model_states=true"))
        return Outcome(removed, tuple(skipped))
