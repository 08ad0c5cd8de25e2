"""Compares tensors the way a pass's numeric class asks for.

- exact: the same bits, NaN where NaN was (whatever its payload), and the same sign of zero;
- rounding: `|new - old| <= 1e-9 * (|old| + max|old|)`, NaN and infinities in the same places;
- single precision: `max|new - reference| <= 2 * max|eager - reference| + 1e-6 * max|reference|`, where the
  reference is a float64 run and `eager` the original graph in its own dtypes (3 instead of 2 below float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.pipeline.passes import NumericClass

if TYPE_CHECKING:
    import torch

__all__ = ["ROUNDING_TOLERANCE", "Mismatch", "compare", "compare_declared", "largest_error"]

ROUNDING_TOLERANCE = 1e-9
"""Relative and (scaled by the largest magnitude) absolute tolerance of the numeric class `rounding`, in float64."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Two tensors differ more than the rule allows: the largest error, and the rule in words."""

    error: float
    rule: str


def compare(old: torch.Tensor, new: torch.Tensor, numeric: NumericClass) -> tuple[float, Mismatch | None]:
    """The largest error of `new` against `old`, and how that breaks the numeric class, or None.

    `LOSSY` is measured; only dtype and shape, and that finite numbers stay finite, are asked for.
    """
    if old.dtype != new.dtype or old.shape != new.shape:
        found = f"{new.dtype} {tuple(new.shape)}"
        return float("inf"), Mismatch(float("inf"), f"same dtype and shape: was {old.dtype} {tuple(old.shape)}, is {found}")
    if numeric is NumericClass.EXACT:
        if _same_bits(old, new):
            return 0.0, None
        return (error := largest_error(old, new)), Mismatch(error, "exact: the same bits, NaN positions and signs of zero")
    error = largest_error(old, new)
    if numeric is NumericClass.LOSSY:
        broke = error == float("inf") and _is_finite(old) and not _is_finite(new)
        return error, Mismatch(error, "lossy: no NaN and infinities where everything was finite") if broke else None
    if not (old.is_floating_point() or old.is_complex()):
        return (error, None) if error == 0.0 else (error, Mismatch(error, "rounding: integers and bools stay the same"))
    magnitude = _magnitude(old)
    if error > ROUNDING_TOLERANCE * magnitude and (error == float("inf") or not _is_close(old, new, magnitude)):
        rule = f"rounding: rtol = atol = {ROUNDING_TOLERANCE:g} in float64, scaled by max|old| = {magnitude:.3g}"
        return error, Mismatch(error, rule)
    return error, None


def compare_declared(reference: torch.Tensor, eager: torch.Tensor, new: torch.Tensor) -> tuple[float, Mismatch | None]:
    """Judge a run in the graph's own dtypes by the error that the original already has against float64.

    `reference` is float64, `eager` and `new` have the declared dtype.
    """
    import torch

    if eager.shape != new.shape or eager.dtype != new.dtype:
        return float("inf"), Mismatch(
            float("inf"), f"same dtype and shape: was {eager.dtype} {tuple(eager.shape)}, is {new.dtype} {tuple(new.shape)}"
        )
    if not (new.is_floating_point() or new.is_complex()):
        return largest_error(eager, new), None  # an argmax may fall the other way by rounding alone; float64 has judged it
    factor = 3.0 if new.dtype in (torch.float16, torch.bfloat16) else 2.0
    wide = torch.complex128 if new.is_complex() else torch.float64
    base = largest_error(reference, eager.to(wide))
    error = largest_error(reference, new.to(wide))
    if base == float("inf"):  # the original itself overflows where float64 does not
        return error, None
    allowed = factor * base + 1e-6 * _magnitude(reference)
    if error <= allowed:
        return error, None
    return error, Mismatch(error, f"own dtypes: error <= {factor:g} x {base:.3g} (the original's) + 1e-6 x max|reference| = {allowed:.3g}")


def largest_error(old: torch.Tensor, new: torch.Tensor) -> float:
    """max|new - old|; infinite where NaN or infinities are in different places, 0 for empty tensors."""
    import torch

    if old.numel() == 0:
        return 0.0
    if not (old.is_floating_point() or old.is_complex()):
        if old.dtype == torch.bool:
            return float((old != new).any())
        return float((old.to(torch.float64) - new.to(torch.float64)).abs().max()) if not torch.equal(old, new) else 0.0
    difference = (new - old).abs()
    plain = float(difference.max())
    if plain == plain and plain != float("inf"):  # the common case: everything is finite
        return plain
    old_nan, new_nan = torch.isnan(old), torch.isnan(new)
    if not torch.equal(old_nan, new_nan):
        return float("inf")
    settled = old_nan | (old == new)
    rest = difference[~settled]
    return float(rest.max()) if rest.numel() else 0.0


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    return bool(torch.isfinite(tensor).all())


def _is_close(old: torch.Tensor, new: torch.Tensor, magnitude: float) -> bool:
    import torch

    return torch.allclose(new, old, rtol=ROUNDING_TOLERANCE, atol=ROUNDING_TOLERANCE * magnitude, equal_nan=True)


def _magnitude(tensor: torch.Tensor) -> float:
    """The largest finite absolute value."""
    import torch

    if tensor.numel() == 0:
        return 0.0
    largest = float(tensor.abs().max())
    if largest == largest and largest != float("inf"):
        return largest
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _same_bits(old: torch.Tensor, new: torch.Tensor) -> bool:
    import torch

    if old.is_complex():
        return _same_bits(torch.view_as_real(old), torch.view_as_real(new))
    if not old.is_floating_point():
        return torch.equal(old, new)
    same = (old == new) & (torch.signbit(old) == torch.signbit(new))
    if bool(same.all()):
        return True
    return bool((same | (torch.isnan(old) & torch.isnan(new))).all())
