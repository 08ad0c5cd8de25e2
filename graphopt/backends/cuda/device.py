"""The device that programs run on, and torch's settings while they do."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

from graphopt.backends.cuda.module import require_triton
from graphopt.backends.cuda.precision import float32_products
from graphopt.errors import BackendError

__all__ = ["device_name", "has_device", "require_device", "settings"]

_TURNS = threading.RLock()
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_memory: Any = deterministic  # its one property belongs to a class that it gives itself when it is imported


def has_device() -> bool:
    """True when a CUDA GPU can be used here."""
    return torch.cuda.is_available()


def device_name() -> str:
    """The GPU's name and compute capability; empty without one."""
    if not has_device():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} sm_{major}{minor}"


def require_device(device: str) -> torch.device:
    """The device to run on.

    Raises:
        BackendError: there is no GPU or no Triton, or the CPU was asked for and Triton compiles instead of interpreting.
    """
    if device == "cpu":
        require_triton()
        from triton import knobs  # pyright: ignore[reportMissingImports]

        if not knobs.runtime.interpret:
            raise BackendError(
                "device cpu runs kernels in Triton's interpreter, which is off", fix="set TRITON_INTERPRET=1 before anything imports Triton"
            )
        return torch.device("cpu")
    if not has_device():
        raise BackendError(
            "no CUDA device is available, and a run needs one; the plan and the source are there (executable.plan, executable.source)",
            fix="run on a machine with a GPU and a CUDA build of torch, or lower for target cpu",
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise BackendError("TRITON_INTERPRET=1 interprets kernels on the CPU", fix="unset it before anything imports Triton")
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def settings(*, tf32: bool, autotune: bool = False) -> Generator[None]:
    """Torch's settings while a program runs for the first time and is captured: no gradients, no autocast, deterministic
    algorithms, tf32 only where it was asked for. All are as they were afterwards. With `autotune` cuDNN times its deterministic algorithms
    for each convolution that is new to this thread, and keeps the fastest; without, its heuristics choose.

    They are those of the whole process, so one thread at a time has them.
    """
    with (
        _TURNS,
        _cublas_workspace(),
        float32_products(tf32=tf32),
        _deterministic(),
        _cudnn(autotune=autotune),
        torch.no_grad(),
        torch.autocast("cuda", enabled=False),
        torch.autocast("cpu", enabled=False),
    ):
        yield


@contextmanager
def _deterministic() -> Generator[None]:
    """Deterministic algorithms; memory is not filled, which each allocation of a library call would be, in a kernel that is captured."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    filled = _memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        _memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _memory.fill_uninitialized_memory = filled


@contextmanager
def _cudnn(*, autotune: bool) -> Generator[None]:
    """How cuDNN chooses. `torch.backends.cudnn.flags` would read and write how it multiplies float32, too."""
    wanted = {"enabled": True, "benchmark": autotune, "deterministic": True}
    before = {name: getattr(torch.backends.cudnn, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)


@contextmanager
def _cublas_workspace() -> Generator[None]:
    """A workspace of a size with which cuBLAS is deterministic, where the process has named none; without, torch warns."""
    if _WORKSPACE in os.environ:
        yield
        return
    os.environ[_WORKSPACE] = ":4096:8"
    try:
        yield
    finally:
        os.environ.pop(_WORKSPACE, None)
