"""What the pass manager writes down: one record per run of a pass, and the result of a pipeline."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from graphopt.ir.graph import Graph
from graphopt.pipeline.passes import NumericClass, Pass, Stage
from graphopt.pipeline.quality import Quality, Trial
from graphopt.rewrite.cut import CutRecord

__all__ = ["COLUMNS", "BrokenPromise", "PassRecord", "PipelineResult", "Status", "StoredText", "aggregate"]

COLUMNS = ("pass", "class", "status", "fired", "nodes", "ms", "check ms", "error")
"""Heads of the table of passes."""

Status: TypeAlias = Literal["applied", "unchanged", "rolled back", "failed", "over budget"]
"""`rolled back`: it broke its promise; `failed`: it raised an exception; `over budget`: it cost too much quality.
All three leave the graph as it was."""


class StoredText:
    """IR text kept compressed: a pipeline of thirty passes over a large graph has thirty nearly equal texts."""

    __slots__ = ("_packed",)

    def __init__(self, text: str) -> None:
        self._packed = zlib.compress(text.encode(), level=1)

    def __str__(self) -> str:
        return zlib.decompress(self._packed).decode()


@dataclass(frozen=True, slots=True)
class BrokenPromise:
    """How a pass changed more than it declares.

    `node` is the text of the first diverging node in execution order (of the graph after the pass), `value`
    the name of the old value that it stands for, `error` the largest absolute error (NaN where numbers had no
    part in it), `source` the line of the user's model.
    """

    pass_name: str
    numeric: NumericClass
    rule: str
    value: str = ""
    node: str = ""
    source: str = ""
    error: float = float("nan")

    def __str__(self) -> str:
        lines = [f"{self.pass_name} broke its promise ({self.numeric.value}): {self.rule}"]
        if self.value:
            error = "" if self.error != self.error else f", largest error {self.error:.3g}"
            lines.append(f"  first diverging value: {self.value}{error}")
        if self.node:
            lines.append(f"  computed by: {self.node}")
        if self.source:
            lines.append(f"  from: {self.source}")
        return "\n".join(lines)


@dataclass(slots=True)
class PassRecord:
    """One run of one pass.

    Times are in seconds. `error` is the largest absolute error that was measured against the graph before the
    pass, None where nothing was compared. `trials` are evaluations of the user's metric: of the pass as it was asked
    for, and of weaker versions where that cost too much; `kept` is the weaker version that stayed, as text. `skipped`
    are (node name, reason) of places left alone, `shrinks` the cuts made.
    """

    spec: str
    name: str
    numeric: NumericClass
    stage: Stage
    status: Status = "unchanged"
    rewritten: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    shrinks: tuple[CutRecord, ...] = ()
    seconds: float = 0.0
    verify_seconds: float = 0.0
    check_seconds: float = 0.0
    metric_seconds: float = 0.0
    error: float | None = None
    nodes_before: int = 0
    nodes_after: int = 0
    round: int = 1
    broken: BrokenPromise | None = None
    exception: str = ""
    text: StoredText | None = None
    trials: tuple[Trial, ...] = ()
    kept: str = ""

    @staticmethod
    def of(pass_: Pass, nodes: int, round_: int) -> PassRecord:
        """An empty record for a pass that is about to run."""
        return PassRecord(repr(pass_), pass_.name, pass_.numeric, pass_.stage, nodes_before=nodes, nodes_after=nodes, round=round_)

    def take(self, attempt: PassRecord) -> None:
        """What a weaker version of the pass did, which is kept instead."""
        self.rewritten, self.skipped, self.notes = attempt.rewritten, attempt.skipped, attempt.notes
        self.shrinks = attempt.shrinks
        self.error, self.nodes_after = attempt.error, attempt.nodes_after
        self.kept = attempt.spec if attempt.spec != self.spec else ""

    def withdraw(self) -> None:
        """The graph is back to what it was before the pass: what the pass did there and said about it is no longer so."""
        self.rewritten, self.notes, self.shrinks = 0, (), ()
        self.nodes_after = self.nodes_before

    @property
    def declined(self) -> str:
        """`declined 5: stride is (2, 2), needs (1, 1) x5`, or nothing."""
        return aggregate(self.skipped)

    def row(self) -> tuple[str, ...]:
        """The record as cells under `COLUMNS`."""
        spec = self.kept or self.spec
        spec = spec if self.round == 1 else f"{spec} (round {self.round})"
        nodes = str(self.nodes_after) if self.nodes_before == self.nodes_after else f"{self.nodes_before} -> {self.nodes_after}"
        error = "" if self.error is None else f"{self.error:.2g}"
        check = self.verify_seconds + self.check_seconds
        times = f"{self.seconds * 1e3:.1f}", f"{check * 1e3:.1f}"
        return spec, self.numeric.value, self.status, str(self.rewritten), nodes, *times, error

    def details(self) -> list[str]:
        """What the pass declined, noted, raised or broke, each behind its name, and what it cost in quality."""
        texts = [self.declined, *self.notes, self.exception, str(self.broken or "")]
        return [*(f"{self.name}: {text}" for text in texts if text), *map(str, self.trials)]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "pass": self.spec,
            "numeric": self.numeric.value,
            "stage": self.stage.value,
            "status": self.status,
            "round": self.round,
            "rewritten": self.rewritten,
            "declined": [{"reason": reason, "count": count} for reason, count in _counted(self.skipped)],
            "notes": list(self.notes),
            "cuts": [
                {name: {"removed": removed, "of": size} for name, (removed, size) in cut.groups.items()}
                for cut in self.shrinks
                if cut.groups
            ],
            "parts": [part.name for cut in self.shrinks for part in cut.parts],
            "seconds": {"pass": self.seconds, "verify": self.verify_seconds, "check": self.check_seconds, "metric": self.metric_seconds},
            "largest_error": _finite(self.error),
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "broken": str(self.broken) if self.broken else None,
            "exception": self.exception or None,
            "kept": self.kept or None,
            "trials": [trial.to_json() for trial in self.trials],
        }


@dataclass(slots=True)
class PipelineResult:
    """The graph after a pipeline, and what happened on the way.

    `original_nodes` counts before the pipeline. `checked` says how numbers were compared. `final_error` and
    `final_error_declared` are the largest absolute errors of the outputs against the original in float64
    and in the graph's own dtypes. `broken` is set when only the final comparison failed: then `graph` is
    the original. `quality` is the user's metric before and after, where there was one to evaluate.
    """

    graph: Graph
    records: list[PassRecord] = field(default_factory=list[PassRecord])
    original_nodes: int = 0
    checked: str = ""
    final_error: float | None = None
    final_error_declared: float | None = None
    final_seconds: float = 0.0
    broken: BrokenPromise | None = None
    notes: tuple[str, ...] = ()
    quality: Quality | None = None

    @property
    def failures(self) -> list[PassRecord]:
        """Records of passes that broke their promise or raised."""
        return [record for record in self.records if record.status in ("rolled back", "failed")]

    @property
    def shrinks(self) -> tuple[CutRecord, ...]:
        """The cuts that stayed, in order; `graphopt.rewrite.cut.replay` makes them again on another checkpoint.

        Empty where the original graph is returned.
        """
        if self.broken is not None:
            return ()
        return tuple(shrink for record in self.records if record.status == "applied" for shrink in record.shrinks)

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """Lossy passes that stayed and left nothing in `shrinks`, each once: a replay has to run them too."""
        if self.broken is not None:
            return ()
        records = (record for record in self.records if record.status == "applied" and record.numeric is NumericClass.LOSSY)
        return tuple(dict.fromkeys(record.kept or record.spec for record in records if not record.shrinks))

    @property
    def rewritten(self) -> int:
        """Rewrites that stayed."""
        return sum(record.rewritten for record in self.records if record.status == "applied")

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "nodes": {"before": self.original_nodes, "after": self.graph.node_count},
            "checked": self.checked,
            "final_error": _finite(self.final_error),
            "final_error_declared": _finite(self.final_error_declared),
            "final_seconds": self.final_seconds,
            "broken": str(self.broken) if self.broken else None,
            "notes": list(self.notes),
            "unrecorded": list(self.unrecorded),
            "quality": self.quality.to_json() if self.quality is not None else None,
            "passes": [record.to_json() for record in self.records],
        }

    @property
    def shown(self) -> list[PassRecord]:
        """Records for the table: those of passes that did something or failed."""
        return [record for record in self.records if record.status != "unchanged"]

    def details(self) -> list[str]:
        """What passes declined, noted or broke, and how numbers were compared, one fact per line.

        A pass that ran several times is quoted as of its last run.
        """
        last = {record.spec: record for record in self.records}
        lines = [
            line
            for record in self.records
            if last[record.spec] is record or record.broken or record.exception or record.trials
            for line in record.details()
        ]
        idle = [spec for spec in last if all(record.status == "unchanged" for record in self.records if record.spec == spec)]
        if idle:
            lines.append(f"nothing to do: {', '.join(idle)}")
        lines.append(f"nodes: {self.original_nodes} -> {self.graph.node_count}")
        lines.append(f"numbers: {self.checked}")
        for label, error in (("float64", self.final_error), ("own dtypes", self.final_error_declared)):
            if error is not None:
                lines.append(f"  largest error of the outputs, {label}: {error:.3g}")
        if self.quality is not None:
            lines.append(str(self.quality))
        lines += [f"note: {note}" for note in self.notes]
        if self.broken is not None:
            lines += ["the original graph is returned:", str(self.broken)]
        return lines

    def __str__(self) -> str:
        rows = [COLUMNS, *(record.row() for record in self.shown)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*table, *self.details()])


def aggregate(skipped: Sequence[tuple[str, str]]) -> str:
    """`declined 5: stride is (2, 2), needs (1, 1) x5` from (node name, reason) pairs; empty for none."""
    if not skipped:
        return ""
    reasons = "; ".join(f"{reason} x{count}" if count > 1 else reason for reason, count in _counted(skipped))
    return f"declined {len(skipped)}: {reasons}"


def _counted(skipped: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    return Counter(reason for _, reason in skipped).most_common()


def _finite(error: float | None) -> float | str | None:
    """JSON has no NaN and no infinity."""
    return error if error is None or abs(error) < float("inf") else str(error)
