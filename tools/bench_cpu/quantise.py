"""int8 models for the figures beside ours, by ONNX Runtime's own tools.

Without real data to calibrate on they are right for speed, and not to be looked at for accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench_cpu.prepare import write_whole

__all__ = ["dynamic", "static"]


def static(folder: Path, name: str, batch: int, feeds: Sequence[dict[str, Any]] | None = None) -> None:
    """QDQ: ranges of activations from `feeds` (inputs by name), else from four random inputs; weights per channel."""
    from onnxruntime import quantization as q

    tidy = _tidy(folder, "static")
    options: dict[str, Any] = {
        "quant_format": q.QuantFormat.QDQ,
        "activation_type": q.QuantType.QUInt8,
        "weight_type": q.QuantType.QInt8,
        "per_channel": True,
    }
    try:
        reader: Any = _Calibration(_random(folder) if feeds is None else feeds)
        write_whole(folder / "int8-static.onnx", lambda path: q.quantize_static(str(tidy), str(path), reader, **options))
    finally:
        tidy.unlink(missing_ok=True)


def dynamic(folder: Path, name: str, batch: int) -> None:
    """Weights in int8, activations quantised as they come; matrix products only, what transformers are deployed with."""
    from onnxruntime import quantization as q

    tidy = _tidy(folder, "dynamic")
    options: dict[str, Any] = {"weight_type": q.QuantType.QInt8, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]}
    try:
        write_whole(folder / "int8-dynamic.onnx", lambda path: q.quantize_dynamic(str(tidy), str(path), **options))
    finally:
        tidy.unlink(missing_ok=True)


def _tidy(folder: Path, suffix: str) -> Path:
    """A copy of dynamo.onnx with shapes inferred and constants folded, as the quantisers want it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = folder / f"tidy-{suffix}.onnx"
    quant_pre_process(str(folder / "dynamo.onnx"), str(target), skip_symbolic_shape=True)
    return target


class _Calibration:
    """Inputs for the ranges, one after the other."""

    def __init__(self, feeds: Sequence[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """One input, or None after the last."""
        return next(self._feeds, None)


def _random(folder: Path) -> list[dict[str, Any]]:
    """The numbers of the benchmark's inputs, shuffled."""
    import onnx

    names = [entry.name for entry in onnx.load(folder / "dynamo.onnx", load_external_data=False).graph.input]
    with np.load(folder / "inputs.npz") as file:
        arrays = [file[key] for key in sorted(file.files)]
    generator = np.random.default_rng(0)
    return [
        {key: generator.permuted(array.ravel()).reshape(array.shape) for key, array in zip(names, arrays, strict=True)} for _ in range(4)
    ]
