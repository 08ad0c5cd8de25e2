"""What only a GPU can show: capture as one CUDA graph, equal bits from run to run, the choice by timing."""

from __future__ import annotations

import os

import pytest
import torch

import graphopt
from graphopt.backends.cuda.device import has_device
from tests.backends.cuda.running import expect_close
from tests.backends.cuda.test_executable import lower, make

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not has_device() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a CUDA GPU and TRITON_INTERPRET=0"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("tf32", 5e-3), ("float16", 5e-3), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("measure", [False, True])
def test_captured_as_one_graph_and_the_same_bits_each_time(dtype: str, tolerance: float, measure: bool) -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,)), dtype=dtype, measure=measure)
    with torch.no_grad():
        want = model(x)
    first = executable.run([x.cuda()])
    expect_close([output.cpu() for output in first], want, tolerance)
    for _ in range(3):
        assert all(map(torch.equal, first, executable.run([x.cuda()])))
    assert not any("not captured" in line for line in executable.report)
