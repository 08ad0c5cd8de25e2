"""How far outputs are from the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["error_of", "relative_to_largest"]


def relative_to_largest(got: Sequence[np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]]) -> float:
    """Largest difference of each output over the largest absolute value of its reference; the worst output's.

    Infinite when the number of outputs, a shape, or the place of a NaN or infinity differs.
    """
    if len(got) != len(expected):
        return float("inf")
    worst = 0.0
    for left, right in zip(got, expected, strict=True):
        if left.shape != right.shape or not np.array_equal(np.isfinite(left), np.isfinite(right)):
            return float("inf")
        usable = np.isfinite(right)
        if usable.any():
            difference = np.abs(left.astype(np.float64) - right)[usable].max()
            worst = max(worst, float(difference / max(np.abs(right[usable]).max(), 1e-300)))
    return worst


def error_of(outputs: Sequence[np.ndarray[Any, Any]], folder: Path) -> float:
    """The error of a workload's outputs against `reference.npz` of its folder."""
    with np.load(folder / "reference.npz") as file:
        expected = [file[key] for key in sorted(file.files)]
    return relative_to_largest(outputs, expected)
