"""Shrinking to a budget: what a width costs, what it does to the output, and which widths to choose.

choices        the widths that each group may get
costs          FLOPs, parameters and memory of a graph whose groups have some widths
latency        time of each group's part of the network, measured on a backend at a few widths
sensitivity    error of the output for each group at a few widths, measured on data
search         the widths that reach all goals at the least error
"""

from __future__ import annotations

__all__: list[str] = []
