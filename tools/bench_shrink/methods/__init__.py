"""Ways to make a network smaller, by name, in the order of the page."""

from __future__ import annotations

from tools.bench_shrink.methods.arm import Arm
from tools.bench_shrink.methods.ours import OURS, SCREEN
from tools.bench_shrink.methods.pruning import PEERS

__all__ = ["ARMS", "SCREENED"]

ARMS: dict[str, Arm] = {arm.name: arm for arm in (*OURS, *PEERS)}
"""Those that are compared."""

SCREENED: dict[str, Arm] = {arm.name: arm for arm in SCREEN}
"""Importance and ranking of `shrink-channels` in all combinations, looked at once on validation data."""
