"""Passes on the command line: one that was asked for on purpose has to have done its work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.errors import PassError

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.optimize import Result

__all__ = ["optimized", "require_lossy"]


def optimized(graph: Graph, passes: Sequence[str]) -> Graph:
    """The graph after passes.

    Raises:
        PassError: a lossy pass failed or was rolled back.
    """
    import graphopt

    result = graphopt.optimize(graph, passes)
    require_lossy(
        result, data="run the passes where it can be given: graphopt optimize MODEL -p ... --calibration FILE.py:FUNCTION -o FOLDER"
    )
    return result.graph


def require_lossy(result: Result, *, data: str, consequence: str = "") -> None:
    """Refuse a result in which a lossy pass failed or was rolled back: the model is not what was asked for.

    Lossless passes are another matter: without one of them the model is only slower. `data` says how to give data, for a pass that
    had none, `consequence` what became of the output.

    Raises:
        PassError: with the name of the first such pass and its reason.
    """
    from graphopt.pipeline.passes import NumericClass

    for record in result.pipeline.failures:
        if record.numeric is NumericClass.LOSSY:
            reason = (record.exception or str(record.broken)).partition("\n")[0]
            fix = data if "needs calibration data" in reason else None
            raise PassError(f"{record.spec} {record.status}: {reason}{consequence}", fix=fix)
    lossy = [record.spec for record in result.pipeline.records if record.numeric is NumericClass.LOSSY and record.status == "applied"]
    if result.pipeline.broken is not None and lossy:
        reason = str(result.pipeline.broken).partition("\n")[0]
        raise PassError(f"{', '.join(lossy)} went with the rest of the pipeline: {reason}{consequence}")
