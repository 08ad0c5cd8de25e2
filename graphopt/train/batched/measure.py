"""What a training step really costs: time, and memory at its peak beyond what was there before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["Memory", "TrainingCost", "measure_training", "watched_memory"]


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Median milliseconds of forward and backward, and bytes that they allocate at most at once, gradients among them."""

    milliseconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.milliseconds:.1f} ms, peak {self.peak_bytes / 2**20:.1f} MiB"


def measure_training(module: nn.Module, *inputs: torch.Tensor, repeats: int = 5) -> TrainingCost:
    """Run forward and backward of the sum of all floating-point outputs, in the mode that the module is in.

    Gradients are cleared before each run. Memory is what torch's allocator gives out, seen by its profiler on the CPU and
    counted by the allocator itself on CUDA.
    """

    def run() -> None:
        module.zero_grad(set_to_none=True)
        leaves = [leaf for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
        torch.stack([leaf.sum() for leaf in leaves]).sum().backward()
        if leaves[0].is_cuda:
            torch.cuda.synchronize()

    run()
    times: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    device = inputs[0].device if inputs else torch.device("cpu")
    module.zero_grad(set_to_none=True)
    with watched_memory(device) as memory:
        run()
    module.zero_grad(set_to_none=True)
    return TrainingCost(statistics.median(times), memory.peak_bytes or 0)


@dataclass(slots=True)
class Memory:
    """Bytes that were allocated at most at once beyond what was there before; None before the end, and where nothing counts them."""

    peak_bytes: int | None = None


@contextmanager
def watched_memory(device: torch.device) -> Generator[Memory]:
    """Measure what runs inside: by the allocator itself on CUDA, by torch's profiler on the CPU, where no other one is active."""
    memory = Memory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield memory
        torch.cuda.synchronize(device)
        memory.peak_bytes = torch.cuda.max_memory_allocated(device) - before
    elif device.type == "cpu" and not _profiled():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            yield memory
        memory.peak_bytes = _peak(profile.profiler)
    else:
        yield memory


def _profiled() -> bool:
    return bool(torch.autograd._profiler_enabled())  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


def _peak(profiler: Any) -> int:
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    current = peak = 0
    for event in events:
        current += event.nbytes()
        peak = max(peak, current)
    return peak
