"""The report of an optimisation: what each pass did and why not, cost before and after, measured latency.

`str(report)` is plain text; on a terminal, rich draws it as tables (`print` of rich, or the command line).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from graphopt.ir.graph import Graph
from graphopt.pipeline.records import PassRecord, PipelineResult
from graphopt.report.measure import Latency
from graphopt.report.summary import Summary, summarize

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["Report"]

_UNITS = ("", "K", "M", "G", "T", "P")


class Report:
    """What happened to a graph. `latency` is None until somebody measures it; costs are computed when asked for."""

    def __init__(self, pipeline: PipelineResult, original: Graph, latency: Latency | None = None) -> None:
        self.pipeline = pipeline
        self.latency = latency
        self._original = original

    @cached_property
    def before(self) -> Summary:
        """Cost of the graph as captured."""
        return summarize(self._original)

    @cached_property
    def after(self) -> Summary:
        """Cost of the optimised graph."""
        return summarize(self.pipeline.graph)

    @property
    def records(self) -> list[PassRecord]:
        """One record per run of a pass."""
        return self.pipeline.records

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            **self.pipeline.to_json(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "latency": self.latency.to_json() if self.latency is not None else None,
        }

    def __str__(self) -> str:
        lines = [str(self.pipeline), ""]
        rows = [("", "before", "after", "change"), *self._cost_rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.latency is not None:
            lines += ["", str(self.latency)]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables for a terminal."""
        from rich.table import Table

        passes = Table("pass", "class", "status", "fired", "nodes", "ms", "check ms", "error", box=None, pad_edge=False)
        styles = {"applied": "green", "unchanged": "dim", "rolled back": "bold red", "failed": "bold red", "over budget": "yellow"}
        for record in self.pipeline.shown:
            passes.add_row(*record.row(), style=styles[record.status])
        yield passes
        yield from self.pipeline.details()
        cost = Table("", "before", "after", "change", box=None, pad_edge=False)
        for row in self._cost_rows():
            cost.add_row(*row)
        yield cost
        if self.latency is not None:
            yield str(self.latency)

    def _cost_rows(self) -> Iterator[tuple[str, str, str, str]]:
        for label, field, unit in (
            ("nodes", "nodes", ""),
            ("FLOPs", "flops", ""),
            ("parameters", "parameters", ""),
            ("weights", "weight_bytes", "B"),
            ("peak activations", "peak_activation_bytes", "B"),
        ):
            old, new = getattr(self.before, field), getattr(self.after, field)
            change = f"{(new - old) / old:+.1%}" if isinstance(old, int) and isinstance(new, int) and old else ""
            yield label, _amount(old, unit), _amount(new, unit), change


def _amount(number: int | None, unit: str) -> str:
    """`25.6 M`, `102 MB`, or `unknown`; thousands, not 1024."""
    if number is None:
        return "unknown"
    size, step = float(number), 0
    while size >= 1000 and step < len(_UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{number} {unit}".strip() if step == 0 else f"{size:.3g} {_UNITS[step]}{unit}"
