"""What a pipeline took out, as a file for another checkpoint of the same model, and what that file does not say."""

from __future__ import annotations

import os
from itertools import dropwhile
from pathlib import Path

from graphopt.analysis.table import counted
from graphopt.errors import UsageError
from graphopt.pipeline.passes import NumericClass
from graphopt.pipeline.records import PipelineResult
from graphopt.rewrite.cut import save_records

__all__ = ["save_shrinks", "saved_text"]


def save_shrinks(pipeline: PipelineResult, path: str | os.PathLike[str]) -> str:
    """Write the records of cuts and parts; returns what a replay of them lacks, in a sentence, empty for nothing.

    Raises:
        UsageError: there is nothing to write.
    """
    lost = ", ".join(pipeline.unrecorded)
    if not pipeline.shrinks:
        reason = f"what {lost} changed is not recorded" if lost else "no pass cut anything"
        raise UsageError(f"there is no shrink to save: {reason}", fix="run a pass that is recorded, such as shrink-channels{ratio=0.5}")
    save_records(pipeline.shrinks, Path(path))
    if not lost:
        return ""
    between = _between(pipeline)
    apart = f"; {', '.join(between)} ran between cuts: save those before and behind it in files of their own" if between else ""
    return f"not in {path}: what {lost} changed, so run that too where the file is replayed, in the same order{apart}"


def saved_text(pipeline: PipelineResult) -> str:
    """`2 cuts`, `1 cut and 3 blocks or layers`."""
    cuts = sum(bool(record.states) for record in pipeline.shrinks)
    parts = sum(len(record.parts) for record in pipeline.shrinks)
    return " and ".join([counted(cuts, "cut")] * (cuts > 0) + [counted(parts, "block or layer", "blocks or layers")] * (parts > 0))


def _between(pipeline: PipelineResult) -> list[str]:
    """Lossy passes without a record that ran behind one with a record and before another."""
    ran = [record for record in pipeline.records if record.status == "applied" and record.numeric is NumericClass.LOSSY]
    ran = list(dropwhile(lambda record: not record.shrinks, ran))
    ran = list(dropwhile(lambda record: not record.shrinks, reversed(ran)))
    return [record.kept or record.spec for record in reversed(ran) if not record.shrinks]
