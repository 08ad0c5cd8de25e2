"""Calibration data that is empty, does not fit or is not finite: one clear error, for every pass that looks at data."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import graphopt
from graphopt.errors import PassError, UsageError
from tests.support.killed_pass import data, graph

PASSES = [
    "sparsify-obs",
    "sparsify-wanda",
    'sparsify-magnitude{importance="taylor"}',
    'sparsify-magnitude{importance="movement"}',
    'sparsify-magnitude{ratios="sensitivity"}',
    'sparsify-block{importance="taylor"}',
    'sparsify-n-m{importance="taylor"}',
]


def with_nan() -> list[torch.Tensor]:
    batches = data()
    batches[1][2, 0, 1, 3] = float("nan")
    return batches


BAD: list[tuple[Callable[[], object], str]] = [
    (list, "calibration data is empty: no batch came out of the list\n  fix: give at least one batch"),
    (with_nan, "calibration batch 1: input %input has 1 NaN or infinite values among 1728, the first at (2, 0, 1, 3)\n  fix: clean"),
    (lambda: [x / 0 for x in data()], "NaN or infinite values among 1728, the first at (0, 0, 0, 0)"),
    (lambda: [x[:, :2] for x in data()], "calibration batch 0: input 0 (%input) is f32[16,2,6,6], needs f32[batch,3,6,6]"),
    (lambda: [x.double() for x in data()], "calibration batch 0: input 0 (%input) is f64[16,3,6,6], needs f32[batch,3,6,6]"),
    (lambda: [x.long() for x in data()], "calibration batch 0: input 0 (%input) is i64[16,3,6,6], needs f32[batch,3,6,6]"),
    (lambda: ["image.png"], "calibration batch 0: input %input is a str, needs a tensor f32[batch,3,6,6]"),
    (lambda: 3, "calibration data is a int, needs a DataLoader, a list of batches, or one batch"),
]


@pytest.mark.parametrize("pass_", PASSES)
def test_data_that_does_not_fit_is_an_error_before_anything_runs(pass_: str) -> None:
    for make, text in BAD:
        with pytest.raises(UsageError, match=re.escape(text)):
            graphopt.optimize(graph(), [pass_], calibration=make())


@pytest.mark.parametrize("pass_", PASSES)
def test_no_data_is_an_error_of_the_pass(pass_: str) -> None:
    with pytest.raises(PassError, match=r"needs calibration data and there is none\n  fix: "):
        graphopt.optimize(graph(), [pass_], strict=True)


@pytest.mark.parametrize("pass_", [pass_ for pass_ in PASSES if "taylor" in pass_ or "movement" in pass_])
def test_labels_that_do_not_fit_say_so(pass_: str) -> None:
    for label, text in (
        (torch.full((16, 4), float("nan")), "labels of calibration batch 0 have 64 NaN or infinite values among 64"),
        (torch.full((16,), 9), "the targets do not fit the outputs: "),
        (torch.ones(3), "the targets have the shape [3], which fits none of the outputs ([16, 4])"),
    ):
        with pytest.raises(PassError, match=re.escape(text)):
            graphopt.optimize(graph(), [pass_], calibration=[(x, label) for x in data()], strict=True)


@pytest.mark.parametrize("pass_", ["sparsify-obs", "sparsify-wanda", 'sparsify-magnitude{ratios="sensitivity"}'])
def test_values_that_overflow_inside_say_where(pass_: str) -> None:
    huge = [x * 3e37 for x in data()]
    text = (
        r"outputs on calibration data have the energy .*\n(.*\n)?  fix: give calibration data with finite outputs"
        if "sensitivity" in pass_
        else r"what '\S+' reads on calibration data has NaN or infinite"
    )
    with pytest.raises(PassError, match=text):
        graphopt.optimize(graph(), [pass_], calibration=huge, strict=True)
