"""Reports: per pass, cost before and after, and measured latency."""

from __future__ import annotations

from graphopt.report.report import Report
from graphopt.report.summary import Summary, summarize

__all__ = ["Report", "Summary", "summarize"]
