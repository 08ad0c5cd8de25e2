"""Passes that work on single places say so where `only` and `exclude` leave none, as those that cut groups do."""

from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.errors import GraphoptWarning, PassOptionError
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass
from graphopt.pipeline.registry import plan, resolve
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled

CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
NETWORK = f"""graph g(%x: f32[2,4,8,8]) {{
  param %one.weight: f32[4,4,3,3]
  param %two.weight: f32[4,4,3,3]
  param %fc.weight: f32[4,4]
  param %head.weight: f32[4,4]
  %a: f32[2,4,8,8] = conv2d(%x, %one.weight, none) {CONV}
  %b: f32[2,4,8,8] = relu(%a)
  %c: f32[2,4,8,8] = conv2d(%b, %two.weight, none) {CONV}
  %d: f32[2,4,8,8] = add(%b, %c)
  %e: f32[2,4,4,4] = max_pool2d(%d) {{ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(1, 1), stride=(2, 2)}}
  %f: f32[2,4] = mean(%e) {{axes=(2, 3), keepdims=false}}
  %g: f32[2,4] = linear(%f, %fc.weight, none)
  %y: f32[2,4] = linear(%g, %head.weight, none)
  return %y
}}
"""
DATA = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("sparsify-magnitude", 4, "head"),
        ("sparsify-n-m", 4, "head"),
        ("sparsify-block", 4, "head"),
        ("sparsify-random", 4, "head"),
        ("sparsify-wanda", 4, "head"),
        ("sparsify-obs", 4, "head"),
        ("annotate-sparsity", 4, "head"),
        ("remove-blocks", 1, "d"),
        ("remove-layers", 2, "fc"),
        ("shrink-kernels", 2, "two"),
        ("shrink-pools", 1, "e"),
        ("factor-convolutions", 2, "two"),
        ("factor-linear", 2, "head"),
    ],
)
def test_everything_excluded_is_an_error(name: str, count: int, last: str) -> None:
    (pass_,) = resolve(plan(f'{name}{{exclude=("*",)}}'))
    rewriter, context = Rewriter(filled(NETWORK)), Context(calibration=Calibration([Batch((DATA,))]))
    with pytest.raises(PassOptionError) as caught:
        _ = pass_.apply_with(rewriter, context) if isinstance(pass_, ContextPass) else pass_.apply(rewriter)
    assert str(caught.value) == (
        f"nothing is left to work on: all of {count} are left out, for example {last}: excluded by '*'\n"
        "  fix: exclude less, or name others in only"
    )


def test_only_and_exclude_can_leave_nothing_together() -> None:
    (pass_,) = resolve(plan('sparsify-magnitude{only=("fc",), exclude=("f*",)}'))
    with pytest.raises(PassOptionError, match=r"all of 4 are left out, for example head: not in only=\('fc',\)"):
        pass_.run(filled(NETWORK))


def test_the_report_says_it_too() -> None:
    with pytest.warns(GraphoptWarning, match="nothing is left to work on: all of 4 are left out"):
        result = graphopt.optimize(filled(NETWORK), ['sparsify-magnitude{exclude=("*",)}'])
    assert result.pipeline.records[0].status == "failed"
