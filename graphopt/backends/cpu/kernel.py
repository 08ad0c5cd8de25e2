"""What an algorithm is: a description, packed weights, and a call into the headers.

A `Kernel` is one step of a plan. It is a frozen dataclass that knows the storages it reads and writes and
says how its C++ looks; it does not know where in memory its buffers end up.

    namespace step_7 {
    <declarations>
    static void call(const Run& run, const Worker& worker) {
      <statements>
    }
    }
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from graphopt.backends.cpu.storage import Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["C_TYPES", "Code", "Kernel", "Packed", "Pointers", "ReadState"]

ReadState: TypeAlias = "Callable[[str], numpy.ndarray]"
"""The numbers of a state by name, as a contiguous numpy array of its own dtype (bf16 as uint16)."""

C_TYPES = {
    "f64": "double", "f32": "float", "i64": "int64_t", "i32": "int32_t", "i16": "int16_t", "i8": "int8_t",
    "u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t", "bool": "bool",
}  # fmt: skip
"""C++ element types by IR name; a kernel never sees another dtype."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An array of the weights blob: what it is, for the plan's text, and its size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """C++ of one step: declarations at namespace scope, then the statements of `call`."""

    declarations: str
    statements: str


class Pointers(Protocol):
    """Where things are in memory, as C++ expressions, for the step that is being emitted."""

    def read(self, storage: Storage) -> str:
        """`const T*` to element (0, ..., 0) of a storage."""
        ...

    def write(self, storage: Storage) -> str:
        """`T*` to element (0, ..., 0) of a storage."""
        ...

    def packed(self, index: int = 0) -> str:
        """`const T*` to array `index` of `Kernel.packed`."""
        ...

    @property
    def scratch(self) -> str:
        """`float*`, `Kernel.scratch` floats of this worker alone, 64-byte aligned."""
        ...

    @property
    def shared(self) -> str:
        """`float*`, `Kernel.shared` floats of all workers together, 64-byte aligned."""
        ...


class Kernel(ABC):
    """One step of a plan. Subclasses are frozen dataclasses; equal ones emit equal code."""

    algorithm: ClassVar[str]
    """Short name, as the plan prints it: `direct`, `winograd`, `gemm`."""
    headers: ClassVar[tuple[str, ...]] = ()
    """Files of `include/` that the code needs."""

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
    def emit(self, pointers: Pointers) -> Code:
        """The C++ of this step."""

    @property
    def packed(self) -> Sequence[Packed]:
        """The arrays that `pack` returns, known without the numbers."""
        return ()

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """Weights in the order in which the kernel reads them."""
        return ()

    @property
    def scratch(self) -> int:
        """Floats of scratch that each worker needs."""
        return 0

    @property
    def shared(self) -> int:
        """Floats of scratch that the workers share."""
        return 0

    @property
    def flops(self) -> int:
        """Floating-point operations of the mathematical op (a multiply-add is 2), whatever the algorithm saves."""
        return 0
