"""The device that programs run on, and torch's settings while they do."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

from graphopt.errors import BackendError

__all__ = ["device_name", "has_device", "require_device", "settings"]


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
        BackendError: there is no GPU, or the CPU was asked for and Triton compiles instead of interpreting.
    """
    if device == "cpu":
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
def settings(*, tf32: bool) -> Generator[None]:
    """Torch's settings while a program runs for the first time and is captured: no gradients, no autocast, deterministic
    algorithms, tf32 only where it was asked for. All are as they were afterwards."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if workspace is None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS is not deterministic, and torch says so
    try:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.use_deterministic_algorithms(True, warn_only=True)
        with (
            torch.no_grad(),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]
