"""Types of values: a dtype, a shape, and for parameters an optional sparsity annotation.

f32[1,64,56,56]        f32[batch,768]        f32[768,768] sparse<block 4x1 0.80>        i64[]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from graphopt.errors import IRError
from graphopt.ir.dims import MAX_SIZE, Dim, product

__all__ = ["DType", "Sparsity", "SparsityPattern", "TensorType"]


class DType(Enum):
    """Element types, named as in IR text; `torch_name` is PyTorch's name, `bytes` the size of one element."""

    f64 = ("float64", 8, "float")
    f32 = ("float32", 4, "float")
    f16 = ("float16", 2, "float")
    bf16 = ("bfloat16", 2, "float")
    f8e4m3 = ("float8_e4m3fn", 1, "float")
    f8e5m2 = ("float8_e5m2", 1, "float")
    i64 = ("int64", 8, "int")
    i32 = ("int32", 4, "int")
    i16 = ("int16", 2, "int")
    i8 = ("int8", 1, "int")
    u8 = ("uint8", 1, "int")
    u16 = ("uint16", 2, "int")
    u32 = ("uint32", 4, "int")
    u64 = ("uint64", 8, "int")
    boolean = ("bool", 1, "bool")
    c64 = ("complex64", 8, "complex")
    c128 = ("complex128", 16, "complex")

    def __init__(self, torch_name: str, size: int, kind: str) -> None:
        self.torch_name = torch_name
        self.bytes = size
        self.kind = kind

    @property
    def text(self) -> str:
        """The name in IR text; `bool` for `DType.boolean`, which Python would not let us call that."""
        return "bool" if self is DType.boolean else self.name

    @property
    def is_float(self) -> bool:
        """True for real floating-point types."""
        return self.kind == "float"

    @staticmethod
    def parse(text: str) -> DType:
        """The dtype of a name in IR text or of a PyTorch name such as `float32`.

        Raises:
            IRError: no such dtype.
        """
        found = _BY_TEXT.get(text)
        if found is None:
            raise IRError(f"unknown dtype '{text}'", fix=f"use one of {', '.join(d.text for d in DType)}")
        return found

    def __repr__(self) -> str:
        return f"DType.{self.name}"


_BY_TEXT = {name: dtype for dtype in DType for name in (dtype.text, dtype.torch_name)}


class SparsityPattern(Enum):
    """How the zeros of a sparse parameter are placed."""

    UNSTRUCTURED = "unstructured"
    BLOCK = "block"
    N_M = "n:m"


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Annotation that many elements of a parameter are exactly zero.

    `ratio` is the fraction of zeros, 0 to 1. For `BLOCK`, `shape` is (rows, columns) of a block that
    is zero as a whole, rows along axis 0 (output channels). For `N_M`, `shape` is (n, m): of every m
    consecutive elements along `axis` at most n are non-zero.
    """

    pattern: SparsityPattern
    ratio: float
    shape: tuple[int, int] = (1, 1)
    axis: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise IRError(f"sparsity ratio is {self.ratio}, needs 0 <= ratio <= 1")
        if min(self.shape) < 1 or self.axis < 0:
            raise IRError(f"sparsity shape is {self.shape} on axis {self.axis}, needs positive sizes and axis >= 0")
        if self.pattern is SparsityPattern.N_M and self.shape[0] > self.shape[1]:
            raise IRError(f"sparsity {self.shape[0]}:{self.shape[1]} keeps more than there is, needs n <= m")

    @property
    def text(self) -> str:
        """`unstructured 0.80`, `block 4x1 0.80` or `2:4 axis=1`, inside `sparse<...>`."""
        if self.pattern is SparsityPattern.UNSTRUCTURED:
            return f"sparse<unstructured {self.ratio!r}>"
        if self.pattern is SparsityPattern.BLOCK:
            return f"sparse<block {self.shape[0]}x{self.shape[1]} {self.ratio!r}>"
        return f"sparse<{self.shape[0]}:{self.shape[1]} axis={self.axis} {self.ratio!r}>"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Type of a value: element type, shape, and for parameters how sparse it is.

    Raises:
        IRError: a dimension is negative or does not fit 64 bits.
    """

    dtype: DType
    shape: tuple[Dim, ...]
    sparsity: Sparsity | None = None

    def __post_init__(self) -> None:
        for dim in self.shape:
            if isinstance(dim, int) and not 0 <= dim <= MAX_SIZE:
                raise IRError(f"shape {self.shape} has the dimension {dim}, needs 0 <= size < 2**63")

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        """Number of elements, an integer when the shape is static."""
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        """Size in bytes when stored dense."""
        return self.elements * self.dtype.bytes

    @property
    def is_static(self) -> bool:
        """True when no dimension is symbolic."""
        return all(isinstance(dim, int) for dim in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers.

        Raises:
            IRError: a dimension is symbolic.
        """
        dims = tuple(dim for dim in self.shape if isinstance(dim, int))
        if len(dims) != len(self.shape):
            raise IRError(f"{self.text} has symbolic dimensions, a static shape is needed here")
        return dims

    @property
    def text(self) -> str:
        """`f32[1,64,56,56]`, with ` sparse<...>` behind it where annotated."""
        body = f"{self.dtype.text}[{','.join(str(dim) for dim in self.shape)}]"
        return f"{body} {self.sparsity.text}" if self.sparsity else body

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same dtype with another shape; a sparsity annotation is dropped."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape and sparsity with another dtype."""
        return replace(self, dtype=dtype)

    def __str__(self) -> str:
        return self.text
