"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.errors import UsageError

__all__ = ["THREADED", "DTypeOption", "Dynamic", "Json", "Model", "Passes", "Shapes", "Threads", "Weights", "check_dtype", "thread_options"]

Model = Annotated[
    str,
    typer.Argument(
        help="torchvision:NAME, timm:NAME, transformers:CLASS@CONFIG.json, FILE.py:FUNCTION, a saved folder or a .gir file.",
        show_default=False,
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Safetensors file with the model's weights (random without).")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape of an example input, NAME=1,3,224,224 or NAME=1,128:int64; may be repeated.", show_default=False),
]
Dynamic = Annotated[
    list[str] | None, typer.Option("--dynamic", help="Axis that may vary, NAME:AXIS=SYMBOL as in x:0=batch; may be repeated.")
]
Passes = Annotated[
    list[str] | None,
    typer.Option("--passes", "-p", help="Passes or presets, as in 'lossless' or 'fold-constants{max_bytes=1048576}'; may be repeated."),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of the executable; 0 leaves the choice to the backend.")]
DTypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="With --target cuda: float32, tf32, float16 or bfloat16 (float32 without).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

THREADED = frozenset({"cpu", "onnxruntime"})
"""Backends with threads of their own; the others compute with those of torch."""


def check_dtype(dtype: str | None, target: str | None) -> None:
    """Refuse a dtype for a backend that takes none.

    Raises:
        UsageError: a dtype was given, and the target is not cuda.
    """
    if dtype is not None and target != "cuda":
        raise UsageError("--dtype is an option of the target cuda", fix="add --target cuda")


def thread_options(threads: int, target: str) -> dict[str, Any]:
    """What `lower` is told so that an executable uses so many threads; torch is told by itself. 0 changes nothing."""
    if not threads:
        return {}
    if target in THREADED:
        return {"threads": threads}
    import torch

    torch.set_num_threads(threads)
    return {}
