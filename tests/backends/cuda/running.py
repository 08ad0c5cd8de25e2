"""One kernel by itself in Triton's interpreter, and tensors to run it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import graphopt
from graphopt.backends.cuda.emit import kernels_of
from graphopt.backends.cuda.kernel import Launch, Work
from graphopt.backends.cuda.lowering import plan_graph
from graphopt.backends.cuda.memory import at, view
from graphopt.backends.cuda.module import load_module
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.planner.choice import Way, first_choice
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["buffer_of", "dtype_of", "expect_close", "run_kernel", "storage_of", "ways_of"]

_DTYPES = {getattr(torch, dtype.torch_name): dtype for dtype in DType if hasattr(torch, dtype.torch_name)}

Buffers = Mapping[str, torch.Tensor]


def dtype_of(tensor: torch.Tensor) -> DType:
    """The IR dtype of a tensor."""
    return _DTYPES[tensor.dtype]


def storage_of(name: str, tensor: torch.Tensor) -> Storage:
    """Where a tensor lies in its own memory, as a buffer of that name."""
    return Storage(name, dtype_of(tensor), tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


def buffer_of(tensor: torch.Tensor) -> torch.Tensor:
    """All of the memory behind a tensor, flat."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def run_kernel(work: Work, buffers: Buffers) -> list[torch.Tensor]:
    """Launch an emitted kernel on flat buffers by name, and read what it wrote (one tensor for each of `work.writes`)."""
    text, (code,) = kernels_of([work])
    module: Any = load_module(text)
    for launch in code.launches:
        assert isinstance(launch, Launch), "an emitted kernel calls no library"
        if 0 not in launch.grid:
            pointers = [at(buffers[storage.buffer], storage.offset) for storage in launch.arguments]
            getattr(module, launch.function)[launch.grid](*pointers, num_warps=launch.warps, num_stages=launch.stages)
    return [view(buffers[storage.buffer], storage.shape, storage.strides, storage.offset) for storage in work.writes]


def expect_close(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor], tolerance: float) -> None:
    """Equal shapes, dtypes and places of NaN and infinities; elsewhere differences of at most `tolerance` times the largest finite value of
    what is wanted (at least 1)."""
    assert len(got) == len(want)
    for have, should in zip(got, want, strict=True):
        assert have.shape == should.shape
        assert have.dtype == should.dtype
        left, right = have.double(), should.double()
        assert torch.equal(left.isnan(), right.isnan())
        assert torch.equal(left[left.isinf()], right[right.isinf()])
        finite = right.isfinite()
        scale = max(1.0, float(right[finite].abs().max()) if bool(finite.any()) else 0.0)
        gap = float((left - right)[finite].abs().max()) if bool(finite.any()) else 0.0
        assert gap <= tolerance * scale, f"off by {gap:.3g}, the largest value is {scale:.3g}"


def ways_of(text: str, options: CudaOptions) -> list[Sequence[Way]]:
    """All choices that the plan of a graph asks for, of which it gets the first."""
    asked: list[Sequence[Way]] = []

    def note(ways: Sequence[Way]) -> tuple[int, str]:
        asked.append(ways)
        return first_choice(ways)

    plan_graph(graphopt.parse(text), {}, options, note)
    return asked
