"""Comparing tensors by numeric class."""

from __future__ import annotations

import pytest
import torch

from graphopt.pipeline.compare import compare, compare_declared, largest_error
from graphopt.pipeline.passes import NumericClass

NAN, INF = float("nan"), float("inf")


def tensor(*numbers: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize(
    ("old", "new", "exact", "rounding"),
    [
        (tensor(1.0, NAN, INF), tensor(1.0, NAN, INF), True, True),
        (tensor(0.0), tensor(-0.0), False, True),
        (tensor(1.0, 1e-12), tensor(1.0, 2e-12), False, True),
        (tensor(1e6, 1.0), tensor(1e6, 1.0 + 1e-4), False, True),
        (tensor(1.0), tensor(1.0 + 1e-8), False, False),
        (tensor(NAN, 1.0), tensor(1.0, NAN), False, False),
        (tensor(INF), tensor(-INF), False, False),
        (tensor(INF), tensor(NAN), False, False),
        (tensor(), tensor(), True, True),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), True, True),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), False, False),
        (torch.tensor([True]), torch.tensor([False]), False, False),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 1j]), True, True),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 2j]), False, False),
    ],
)
def test_classes(old: torch.Tensor, new: torch.Tensor, exact: bool, rounding: bool) -> None:
    assert (compare(old, new, NumericClass.EXACT)[1] is None) is exact
    assert (compare(old, new, NumericClass.ROUNDING)[1] is None) is rounding
    assert compare(old, new, NumericClass.LOSSY)[1] is None


def test_other_dtypes_and_shapes_never_fit() -> None:
    for other in (tensor(1.0, dtype=torch.float32), tensor(1.0, 1.0)):
        error, mismatch = compare(tensor(1.0), other, NumericClass.LOSSY)
        assert error == INF
        assert mismatch is not None
        assert "was torch.float64 (1,)" in mismatch.rule


def test_largest_error_passes_over_equal_infinities() -> None:
    assert largest_error(tensor(INF, NAN, 1.0), tensor(INF, NAN, 1.5)) == 0.5
    assert largest_error(tensor(INF), tensor(0.0)) == INF
    assert largest_error(torch.tensor([1, 5]), torch.tensor([1, 9])) == 4.0


def test_own_dtypes_are_judged_by_the_error_of_the_original() -> None:
    reference = tensor(1.0, 2.0)
    eager = tensor(1.0 + 1e-3, 2.0, dtype=torch.float32)
    assert compare_declared(reference, eager, tensor(1.0 - 1.9e-3, 2.0, dtype=torch.float32))[1] is None
    mismatch = compare_declared(reference, eager, tensor(1.0 - 2.1e-3, 2.0, dtype=torch.float32))[1]
    assert mismatch is not None
    assert "own dtypes: error <= 2 x 0.001 (the original's)" in mismatch.rule
    half = tensor(1.0 + 1e-2, dtype=torch.float16)
    assert compare_declared(tensor(1.0), half, tensor(1.0 - 2.5e-2, dtype=torch.float16))[1] is None
