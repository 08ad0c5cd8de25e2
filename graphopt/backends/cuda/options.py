"""Options of the CUDA backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from graphopt.errors import BackendError
from graphopt.ir.types import DType

__all__ = ["CudaOptions"]

DTYPES = ("float32", "tf32", "float16", "bfloat16")
DEVICES = ("cuda", "cpu")


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How a network is lowered.

    `dtype` is that in which float32 values are stored and multiplied: `float32`; `tf32` (stored as float32, products of matrices
    and convolutions with 10-bit mantissas on tensor cores); `float16`, `bfloat16` (stored so, computed in float32). Values of other
    dtypes stay as they are. `measure` times library calls against emitted kernels on the GPU at hand, with results kept in
    the cache, and has cuDNN time its algorithms in the first run; without it, or without a GPU, the defaults are taken. `device` is
    `cuda`, or `cpu` to run the emitted program in Triton's interpreter, which is slow and for tests (set TRITON_INTERPRET=1 before
    anything imports Triton).
    """

    dtype: str = "float32"
    measure: bool = True
    device: str = "cuda"

    @staticmethod
    def parse(given: Mapping[str, Any]) -> CudaOptions:
        """Options from keywords, checked.

        Raises:
            BackendError: an unknown option, or a value that it can't have.
        """
        known = {entry.name for entry in fields(CudaOptions)}
        for name in given:
            if name not in known:
                raise BackendError(f"cuda has no option '{name}'", fix=f"options: {', '.join(sorted(known))}")
        made = CudaOptions(**given)
        if made.dtype not in DTYPES:
            raise BackendError(f"dtype is {made.dtype!r}, needs one of {', '.join(DTYPES)}")
        if not isinstance(made.measure, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BackendError(f"measure is {made.measure!r}, needs true or false")
        if made.device not in DEVICES:
            raise BackendError(f"device is {made.device!r}, needs one of {', '.join(DEVICES)}")
        return made

    @property
    def storage(self) -> DType:
        """What float32 values are stored as."""
        return {"float16": DType.f16, "bfloat16": DType.bf16}.get(self.dtype, DType.f32)

    @property
    def precision(self) -> str:
        """How emitted kernels multiply float32 matrices: `ieee` or `tf32`."""
        return "tf32" if self.dtype == "tf32" else "ieee"

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the manifest; `parse` reads it."""
        return asdict(self)
