"""Take out the parts of a network that matter least, one after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from graphopt.analysis.table import counted
from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Value
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.blocks import Block
from graphopt.passes.shrink.influence import Keep, original_outputs, output_errors, similarity_scores
from graphopt.passes.shrink.layers import check_patterns, excluded
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass
from graphopt.rewrite.cut import CutRecord, PartRecord, take_out
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["PartRemoval"]


@dataclass(frozen=True)
class PartRemoval(ContextPass):
    """What `remove-blocks` and `remove-layers` have in common: measure, take out the least, measure again."""

    part: ClassVar[str]
    """What is taken out, in words."""
    numeric = NumericClass.LOSSY

    ratio: float = field(default=0.25, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction to remove"})
    count: int | None = field(default=None, metadata={"minimum": 0, "help": "how many to remove; replaces ratio"})
    measure: Literal["output", "similarity"] = field(
        default="output", metadata={"help": "error of the network's outputs without it, or 1 - cosine of its input and output"}
    )
    remeasure: bool = field(default=True, metadata={"help": "measure those that are left again after each removal"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of names to leave alone"})

    @abstractmethod
    def find(self, graph: Graph) -> tuple[list[Block], list[tuple[str, str]]]:
        """The parts that can go, in execution order, and what can't with the reason."""

    def weaker(self, strength: float) -> Pass | None:
        """The pass with a smaller count or ratio."""
        return super().weaker(strength) if self.count is None else replace(self, count=int(self.count * strength))

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Measure and remove.

        Raises:
            PassError: there is no calibration data, or the checkpoint can't be written.
            PassOptionError: a pattern means nothing.
        """
        found, skipped = self.find(rewriter.graph)
        if not found:
            return Outcome(0, tuple(skipped))
        if context.calibration is None:
            raise PassError(
                f"{self.name} measures each {self.part} on calibration data, and there is none", fix="pass calibration=loader to optimize"
            )
        check_patterns((block.name for block in found), only=self.only, exclude=self.exclude)
        left: list[Block] = []
        for block in found:
            reason = excluded(block.name, self.only, self.exclude)
            if reason is None:
                left.append(block)
            else:
                skipped.append((block.name, reason))
        wanted = min(self.count, len(left)) if self.count is not None else int(self.ratio * len(left) + 1e-9)
        options = {name: value for name, value in self.options().items() if name not in ("ratio", "count")}  # how far it goes
        finished = Finished(context, self.name, options, rewriter.graph, context.calibration, seeded=False)
        parts, notes = self._remove(rewriter, left, wanted, context, context.calibration, finished)
        if not notes:
            asked = f"ratio {self.ratio}" if self.count is None else f"count {self.count}"
            skipped.append((rewriter.graph.name, f"{asked} of {counted(len(left), self.part)} is less than one {self.part}"))
        fewer = f"count {self.count} asked for, and no more than {counted(len(parts), self.part)} could go"
        too_many = (fewer,) if notes and self.count is not None and len(parts) < self.count else ()
        return Outcome(len(notes), tuple(skipped), (*notes, *too_many, *finished.notes), (CutRecord.of_parts(parts),) if parts else ())

    def _keep(self, context: Context, finished: Finished, parts: int, batches: int, gone: int, wanted: int) -> Keep:
        """Keeps what is measured of each batch where so many are gone already."""

        def keep(batch: int, measure: Callable[[], list[float]]) -> list[float]:
            if context.progress is not None:
                what = f"{self.name}: measuring {counted(parts, self.part)}, batch {batch + 1} of {batches}"
                context.progress(what, (gone + batch / batches) / wanted)
            return finished.result(f"gone-{gone:05}-batch-{batch + 1:05}", lambda: {"found": measure()})["found"]

        return keep

    def _remove(
        self, rewriter: Rewriter, left: list[Block], wanted: int, context: Context, calibration: Calibration, finished: Finished
    ) -> tuple[list[PartRecord], list[str]]:
        """What was taken out, and a note on each."""
        graph, parts, notes = rewriter.graph, list[PartRecord](), list[str]()
        if not wanted:
            return parts, notes
        original = original_outputs(graph, calibration) if self.measure == "output" else []
        scores: dict[Value, float] = {}
        while left and len(notes) < wanted:
            if not scores or self.remeasure:
                keep = self._keep(context, finished, len(left), len(calibration), len(notes), wanted)
                found = (
                    output_errors(graph, left, calibration, original, keep)
                    if self.measure == "output"
                    else similarity_scores(graph, left, calibration, keep)
                )
                scores = {block.exit: score for block, score in zip(left, found, strict=True)}
            least = min(left, key=lambda block: scores[block.exit])
            parts.append(PartRecord(least.name, least.entry.name, least.exit.name))
            take_out(rewriter, parts[-1])
            if context.progress is not None:
                context.progress(f"{self.name}: {least.name}", (len(notes) + 1) / wanted)
            notes.append(f"{least.name} removed: {'error of the outputs' if original else 'block influence'} {scores[least.exit]:.3g}")
            left = [replace(b, entry=least.entry) if b.entry is least.exit else b for b in left if b is not least]
            left = [b for b in left if b.exit.producer is not None and b.exit.producer.graph is graph]  # not inside what went
        return parts, notes
