"""Cases run: in Triton's interpreter on CPU tensors, or on a GPU where this process compiles."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import torch

from graphopt.backends.cuda.emit import kernels_of
from graphopt.backends.cuda.kernel import Launch
from graphopt.backends.cuda.memory import at, view
from graphopt.backends.cuda.module import load_module
from tools.check_cuda.case import TOLERANCES, Case

__all__ = ["judge", "run"]


def run(case: Case, device: str = "cpu") -> torch.Tensor:
    """What the kernel leaves in `y`, on the CPU."""
    text, (code,) = kernels_of([case.kernel])
    module: Any = load_module(text)
    memory = {name: _memory(tensor).to(device) for name, tensor in case.tensors.items()}
    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy warns where a row is all NaN, or a cast leaves the range
        for launch in code.launches:
            assert isinstance(launch, Launch), "an emitted kernel calls no library"
            if 0 in launch.grid:
                continue
            pointers = [at(memory[storage.buffer], storage.offset) for storage in launch.arguments]
            getattr(module, launch.function)[launch.grid](*pointers, num_warps=launch.warps, num_stages=launch.stages)
    y = case.tensors["y"]
    return view(memory["y"], tuple(y.shape), y.stride(), int(y.storage_offset())).cpu()


def judge(case: Case, device: str = "cpu") -> tuple[float, str]:
    """Run a case: the largest error relative to the value (to 1 below 1), and what is wrong, empty when nothing is."""
    try:
        got, want = run(case, device), case.want
    except Exception as error:  # noqa: BLE001  # whatever Triton raises is a finding
        return 0.0, f"{type(error).__name__}: {error}"
    if got.shape != want.shape or got.dtype != want.dtype:
        return 0.0, f"{got.dtype}{list(got.shape)}, needs {want.dtype}{list(want.shape)}"
    if not want.is_floating_point():
        wrong = int((got != want).sum())
        return float(wrong > 0), f"{wrong} of {want.numel()} elements differ" if wrong else ""
    left, right = got.double(), want.double()
    if not torch.equal(left.isnan(), right.isnan()) or not torch.equal(left[right.isinf()], right[right.isinf()]):
        return 0.0, "NaN or infinity in other places"
    finite = right.isfinite()
    if not bool(finite.any()):
        return 0.0, ""
    error = float(((left - right)[finite].abs() / right[finite].abs().clamp(min=1)).max())
    tolerance = TOLERANCES[want.dtype]
    return error, "" if error <= tolerance else f"off by {error:.3g}, {tolerance:.3g} is allowed"


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All of the memory behind a tensor, flat."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
