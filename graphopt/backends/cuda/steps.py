"""Steps that are no emitted kernels: calls into cuDNN, cuBLASLt and flash attention through torch, and nodes that the
reference lowering runs on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.kernel import Call, Code, Literal, Work
from graphopt.backends.cuda.storage import Storage

__all__ = ["LibraryStep", "NodeStep"]


@dataclass(frozen=True)
class LibraryStep(Work):
    """One call of a function of `graphopt.backends.cuda.library`; torch allocates the result."""

    function: str
    arguments: tuple[Storage | Literal, ...]
    result: Storage
    constants: tuple[tuple[str, Literal], ...] = ()
    title: str = ""
    operations: int = 0

    algorithm: ClassVar[str] = "library"

    @property
    def reads(self) -> Sequence[Storage]:
        """The arguments that are tensors."""
        return tuple(dict.fromkeys(given for given in self.arguments if isinstance(given, Storage)))

    @property
    def writes(self) -> Sequence[Storage]:
        """The result."""
        return (self.result,)

    def describe(self) -> str:
        """Function and shape."""
        return f"{self.function} {self.title}"

    @property
    def flops(self) -> int:
        """As the op counts them, without those of zeros that are skipped."""
        return self.operations

    @property
    def skips_zeros(self) -> bool:
        """Of weights with two of four."""
        return self.function == "linear_2_4"

    def emit(self, name: str) -> Code:
        """One call."""
        return Code("", (Call(self.function, self.arguments, (self.result,), self.constants),))


@dataclass(frozen=True)
class NodeStep(Work):
    """One node of the graph, by its number, run as the reference lowering says, with torch's own kernels."""

    number: int
    op: str
    operands: tuple[Storage, ...]
    results: tuple[Storage, ...]

    algorithm: ClassVar[str] = "torch"

    @property
    def reads(self) -> Sequence[Storage]:
        """The operands that are tensors, in order."""
        return tuple(dict.fromkeys(self.operands))

    @property
    def writes(self) -> Sequence[Storage]:
        """The results."""
        return self.results

    def describe(self) -> str:
        """Op and operands."""
        return f"{self.op} of {', '.join(storage.type_text for storage in self.operands) or 'no tensor'}"

    def emit(self, name: str) -> Code:
        """One call."""
        return Code("", (Call(self.number, self.operands, self.results),))
