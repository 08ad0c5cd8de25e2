"""Chains of elementwise ops as lines of a kernel.

p0_v = tl.load(p0 + column, mask=in_column)
v0 = (value + p0_v)
v1 = tl.where(v0 < 0, tl.zeros_like(v0), v0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.cuda.chain import Argument, Chain, Constant, FromOperand, FromOperation
from graphopt.backends.cuda.kernel import TRITON_TYPES, Unsupported
from graphopt.backends.cuda.kernels.expressions import expression
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["NO_CHAIN", "chain_arguments", "chain_lines", "check_dtypes", "check_shapes"]

NO_CHAIN = Chain()


def chain_lines(chain: Chain, value: str, load: Callable[[int], str], prefix: str = "", pointer: str = "p") -> tuple[list[str], str]:
    """Lines that run a chain on the register `value`, and the name of the result.

    `load` gives the expression that loads an operand; each is loaded once, where it is first read. `prefix` keeps the names of several
    chains of one kernel apart.

    Raises:
        Unsupported: an operation has no expression.
    """
    lines: list[str] = []
    loaded: set[int] = set()

    def register(argument: Argument) -> tuple[str, DType] | Constant:
        match argument:
            case Constant():
                return argument
            case FromOperation(index):
                return f"{prefix}v{index}", chain.operations[index].dtype
            case FromOperand(index):
                if index not in loaded:
                    loaded.add(index)
                    lines.append(f"{prefix}{pointer}{index}_v = {load(index)}")
                return f"{prefix}{pointer}{index}_v", chain.operands[index].dtype
            case _:
                return value, chain.value

    for number, operation in enumerate(chain.operations):
        arguments = [register(argument) for argument in operation.arguments]
        lines.append(f"{prefix}v{number} = {expression(operation, arguments)}")
    return lines, f"{prefix}v{len(chain.operations) - 1}" if chain else value


def chain_arguments(chain: Chain, prefix: str = "", pointer: str = "p") -> list[tuple[str, Storage]]:
    """The pointer arguments of a chain: `p0`, `p1`, ..."""
    return [(f"{prefix}{pointer}{index}", storage) for index, storage in enumerate(chain.operands)]


def check_shapes(shape: Sequence[int], *storages: Storage) -> None:
    """Storages have that shape.

    Raises:
        Unsupported: one has another.
    """
    for storage in storages:
        if storage.shape != tuple(shape):
            raise Unsupported(f"{storage.type_text} is not seen in the shape {list(shape)}")


def check_dtypes(*dtypes: DType) -> None:
    """Kernels can read and write those.

    Raises:
        Unsupported: one of them they can't.
    """
    for dtype in dtypes:
        if dtype.text not in TRITON_TYPES:
            raise Unsupported(f"kernels have no {dtype.text}")
