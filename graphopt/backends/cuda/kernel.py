"""What a step of a plan is: an emitted kernel, or a call into a library.

    @triton.jit
    def kernel_7(x, y):                       Code.declarations
        ...

    kernel_7[(128, 1, 1)](b3, b5, num_warps=4)        Code.launches

A `Kernel` is a frozen dataclass. It knows the storages it reads and writes and says how its source looks; it does not
know where in memory its buffers end up. Shapes and strides are literals of the source, pointers are arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from graphopt.backends.cuda.storage import Storage

__all__ = ["TRITON_TYPES", "Call", "Code", "Kernel", "Launch", "Literal", "Unsupported", "Work"]

TRITON_TYPES = {
    "f64": "tl.float64", "f32": "tl.float32", "f16": "tl.float16", "bf16": "tl.bfloat16", "i64": "tl.int64", "i32": "tl.int32",
    "i16": "tl.int16", "i8": "tl.int8", "u8": "tl.uint8", "u16": "tl.uint16", "u32": "tl.uint32", "u64": "tl.uint64", "bool": "tl.int1",
}  # fmt: skip
"""Triton element types by IR name; an emitted kernel never sees another dtype."""


class Unsupported(Exception):  # noqa: N818  # a refusal with a reason, not an error
    """Raised by the constructor of a kernel that can't do what is asked: the planner takes another way, and reports the reason."""


Literal: TypeAlias = "bool | int | float | str | tuple[Literal, ...] | None"
"""A constant of a library call; strings are literals of this package, never text of a model."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of an emitted kernel: the function's name, the grid (1 to 3 sizes, a zero size launches nothing), the
    pointer arguments in order. A storage is passed as a pointer to its element (0, ..., 0)."""

    function: str
    grid: tuple[int, ...]
    arguments: tuple[Storage, ...]
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One call into a library: `results = function(*arguments, **constants)`, on views of the storages.

    `function` is a function of `graphopt.backends.cuda.library`, or a number: the node of the graph that the reference lowering runs.
    The results are tensors that torch allocates, laid out as the storages of `results` say.
    """

    function: str | int
    arguments: tuple[Storage | Literal, ...]
    results: tuple[Storage, ...]
    constants: tuple[tuple[str, Literal], ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Source of one step: module-level functions, then what is launched or called, in order."""

    declarations: str
    launches: tuple[Launch | Call, ...]


class Work(ABC):
    """One step of a plan, emitted or not. Subclasses are frozen dataclasses; equal ones emit equal code."""

    algorithm: ClassVar[str]
    """Short name, as the plan prints it: `elementwise`, `gemm`, `cudnn convolution`."""

    @property
    @abstractmethod
    def reads(self) -> Sequence[Storage]:
        """Every storage that is read, those of the chain among them."""

    @property
    @abstractmethod
    def writes(self) -> Sequence[Storage]:
        """Every storage that is written."""

    @abstractmethod
    def describe(self) -> str:
        """One line for the plan: shapes, tile, what is fused."""

    @abstractmethod
    def emit(self, name: str) -> Code:
        """The source of this step. Names of module-level functions begin with `name`, an identifier made of a counter."""

    @property
    def flops(self) -> int:
        """Floating-point operations of the mathematical op (a multiply-add is 2)."""
        return 0

    @property
    def skips_zeros(self) -> bool:
        """True where a weight that is annotated as sparse is not multiplied as a dense one."""
        return False

    @property
    def bytes(self) -> int:
        """Bytes that have to be read and written once."""
        distinct = dict.fromkeys((*self.reads, *self.writes))
        return sum(storage.bytes for storage in distinct)


class Kernel(Work):
    """A step whose Triton source is emitted. The constructor raises `Unsupported` where the kernel can't do what is asked."""
