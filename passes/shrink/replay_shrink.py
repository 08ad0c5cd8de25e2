"""Make the cuts again that another run made, on another checkpoint of the same model, and take out the same parts.

    param %conv1.weight: f32[64,3,7,7]     a file says: positions 0, 2, 5, ... of axis 0 are kept
    -> param %conv1.weight: f32[32,3,7,7]

The file is what `graphopt optimize --save-shrink` or `result.save_shrinks(path)` wrote. It
names states, nodes and positions, no numbers, so the passes before this one have to be those that ran before the cuts.
What layers lack then is made up for on calibration data with `compensation`, from the numbers of this checkpoint and after
each of the cuts, as the pass that made them does.

Numeric class: lossy. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.analysis.table import counted
from graphopt.passes.shrink.compensation import compensate
from graphopt.passes.shrink.structured import Compensation
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome
from graphopt.rewrite.cut import apply_record, load_records
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["ReplayShrink"]


@dataclass(frozen=True)
class ReplayShrink(ContextPass):
    """Apply recorded cuts."""

    name = "replay-shrink"
    numeric = NumericClass.LOSSY

    path: str = field(metadata={"help": "file of recorded cuts"})
    compensation: Compensation = field(default="none", metadata={"help": "how the layers that read the units make up for them"})

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Apply the cuts in their order.

        Raises:
            ArtifactError: the file is missing or damaged.
            PassError: a cut does not fit the graph.
        """
        records = load_records(self.path)
        notes: list[str] = []
        for record in records:
            before = rewriter.graph.clone()
            apply_record(rewriter, record)
            if record.states:  # as the passes that made the records: those that take out blocks do not compensate
                notes += compensate(rewriter, before, record, context, self.compensation)
        units = sum(removed for record in records for removed, _ in record.groups.values())
        groups = len({name for record in records for name in record.groups})
        parts = sum(len(record.parts) for record in records)
        beside = f" and {counted(parts, 'block or layer', 'blocks or layers')}" if parts else ""
        taken_out = f"{counted(units, 'unit')} of {counted(groups, 'group')}{beside} taken out as recorded in {self.path}"
        return Outcome(units + parts, notes=(taken_out, *notes), shrinks=records)
