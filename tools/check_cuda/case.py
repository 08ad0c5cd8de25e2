"""One kernel on small tensors: the kernel, the memory that it works on, and what the reference backend gives in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from graphopt import ops
from graphopt.backends.cuda.kernel import Work
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Operand
from graphopt.ir.types import DType, TensorType

__all__ = ["TOLERANCES", "Case", "Operands", "Storages", "make_case", "node_and_result", "reference", "storage_of"]

Storages: TypeAlias = Mapping[str, Storage]
Operands: TypeAlias = "Sequence[torch.Tensor | float | int | bool | None]"

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest error relative to the value (to 1 below 1). The interpreter cuts float32 to bfloat16 where a GPU rounds: two units there."""

_DTYPES = {getattr(torch, dtype.torch_name): dtype for dtype in DType if hasattr(torch, dtype.torch_name)}


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel of a family with tensors by buffer; `want` is what buffer `y` has to show."""

    family: str
    name: str
    kernel: Work
    tensors: Mapping[str, torch.Tensor]
    want: torch.Tensor


def storage_of(name: str, tensor: torch.Tensor) -> Storage:
    """Where a tensor lies in its own memory, as a buffer of that name."""
    return Storage(name, _DTYPES[tensor.dtype], tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


def reference(op: str, operands: Operands, attrs: Mapping[str, Attribute] | None = None) -> torch.Tensor:
    """What the reference backend computes for one node, in float64, rounded to the dtype of the op's result."""
    return node_and_result(op, operands, attrs)[1]


def node_and_result(op: str, operands: Operands, attrs: Mapping[str, Attribute] | None = None) -> tuple[Node, torch.Tensor]:
    """A graph's only node, and what the reference backend computes for it."""
    building = ops.builder("one")
    given: list[Operand] = []
    tensors: list[torch.Tensor] = []
    for operand in operands:
        if isinstance(operand, torch.Tensor):
            given.append(building.input(f"x{len(tensors)}", TensorType(_DTYPES[operand.dtype], tuple(operand.shape))))
            tensors.append(operand.double() if operand.is_floating_point() else operand)
        else:
            given.append(operand)
    node = building.insert(op, given, dict(attrs or {}))
    result = node.results[0]
    building.outputs(result)
    (found,) = Interpreter(building.graph, precise=True).run(*tensors)
    return node, found.to(getattr(torch, result.type.dtype.torch_name))


def make_case(
    family: str,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    want: torch.Tensor,
    make: Callable[[Storages], Work],
    *,
    channels_last: bool = False,
) -> Case:
    """A case whose result lies in a fresh buffer `y`, filled with what a kernel that writes too little leaves behind."""
    y = torch.full(want.shape, 7, dtype=want.dtype)
    if channels_last:
        y = y.contiguous(memory_format=torch.channels_last)
    every = {**tensors, "y": y}
    return Case(family, name, make({buffer: storage_of(buffer, tensor) for buffer, tensor in every.items()}), every, want)
