"""Kernels on images, collected into one compilation and compared to torch in float64.

Everything around the inputs (halos, lanes behind the last channel) is NaN, so that reading it shows; everything
around the outputs is checked to be left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
import pytest
import torch

from graphopt.backends.cpu.chain import Chain, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

__all__ = ["ISAS", "Cases", "add_then_relu", "clamp6", "hardswish", "relu"]

ISAS = ["avx512", "avx2", "generic"]
UNTOUCHED = -77.0


def relu() -> Chain:
    return Chain((Operation("relu", (TheValue(),)),))


def clamp6() -> Chain:
    return Chain((Operation("clamp", (TheValue(),), {"minimum": 0, "maximum": 6}),))


def hardswish() -> Chain:
    return Chain((Operation("hardswish", (TheValue(),)),))


def add_then_relu(other: Storage) -> Chain:
    return Chain((Operation("add", (TheValue(), FromOperand(0))), Operation("relu", (FromOperation(0),))), (other,))


@dataclass
class Cases:
    """Kernels, the arrays that they read, and what they should write."""

    seed: int = 0
    kernels: list[Kernel] = field(default_factory=list[Kernel])
    names: list[str] = field(default_factory=list[str])
    states: dict[str, numpy.ndarray] = field(default_factory=dict[str, numpy.ndarray])
    inputs: dict[Storage, numpy.ndarray] = field(default_factory=dict[Storage, numpy.ndarray])
    outputs: dict[Storage, tuple[torch.Tensor, float]] = field(default_factory=dict[Storage, "tuple[torch.Tensor, float]"])

    def __post_init__(self) -> None:
        self.random = numpy.random.default_rng(self.seed)

    def array(self, *shape: int) -> numpy.ndarray:
        """Normally distributed numbers."""
        return self.random.standard_normal(shape, dtype=numpy.float32)

    def state(self, *shape: int, scale: float = 1.0) -> tuple[str, torch.Tensor]:
        """A parameter: its name, and its numbers in float64."""
        name = f"state{len(self.states)}"
        self.states[name] = self.array(*shape) * numpy.float32(scale)
        return name, torch.from_numpy(self.states[name]).double()

    def input(self, array: numpy.ndarray, layout: str, halo: tuple[int, int] = (0, 0)) -> tuple[Storage, torch.Tensor]:
        """An operand: its storage, and its numbers in float64."""
        storage = make_storage(layout, f"x{len(self.inputs)}", DType.f32, array.shape, halo)
        self.inputs[storage] = array
        return storage, torch.from_numpy(array).double()

    def output(self, expected: torch.Tensor, layout: str, halo: tuple[int, int] = (0, 0), tolerance: float = 2e-6) -> Storage:
        """A result; `tolerance` is relative to its largest number, 0 wants equality."""
        storage = make_storage(layout, f"y{len(self.outputs)}", DType.f32, tuple(expected.shape), halo)
        self.outputs[storage] = (expected, tolerance)
        return storage

    def add(self, kernel: Kernel, name: str = "") -> None:
        """A kernel whose inputs and outputs are known."""
        self.kernels.append(kernel)
        self.names.append(name or kernel.describe())

    def check(self, isa: str, threads: Sequence[int] = (1, 2, 4), sanitize: str = "") -> None:
        """Compile, run with each number of threads, compare."""
        built = Built(self.kernels, list(self.inputs), list(self.outputs), self.states, isa, sanitize=sanitize)
        memories = {storage.buffer: memory_of(array, storage, fill=numpy.nan) for storage, array in self.inputs.items()}
        runs = [built.run(memories, count, fill=UNTOUCHED) for count in threads]
        for storage, (expected, tolerance) in self.outputs.items():
            name = next(name for kernel, name in zip(self.kernels, self.names, strict=True) if storage in kernel.writes)
            found = value_of(runs[0][storage.buffer], storage)
            _compare(torch.from_numpy(found.copy()).double(), expected, tolerance, f"{name} on {isa}")
            _check_untouched(runs[0][storage.buffer], storage, name)
            for count, other in zip(threads[1:], runs[1:], strict=True):
                same = numpy.array_equal(found, value_of(other[storage.buffer], storage), equal_nan=True)
                assert same, f"{name} on {isa}: {count} threads make other numbers than {threads[0]}"


def _compare(found: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str) -> None:
    assert torch.equal(found.isnan(), expected.isnan()), f"{name}: NaN in other places"
    infinite = expected.isinf()
    assert torch.equal(found[infinite], expected[infinite]), f"{name}: infinities in other places"
    finite = expected.isfinite()
    if not finite.any():
        return
    error = (found[finite] - expected[finite]).abs().max().item()
    largest = max(expected[finite].abs().max().item(), 1e-30)
    if error > tolerance * largest:
        pytest.fail(f"{name}: error {error / largest:.2e} of the largest number, allowed {tolerance:.0e}")


def _check_untouched(memory: numpy.ndarray, storage: Storage, name: str) -> None:
    touched = memory_of(numpy.zeros(storage.shape, dtype=numpy.float32), storage, fill=1.0, elements=memory.size) == 0
    if storage.blocked_axis is not None:  # lanes behind the last channel may hold anything
        channels = -(-storage.shape[storage.blocked_axis] // LANES) * LANES
        shape = tuple(channels if axis == storage.blocked_axis else size for axis, size in enumerate(storage.shape))
        whole = make_storage("blocked", storage.buffer, DType.f32, shape, storage.halo)
        touched = memory_of(numpy.zeros(shape, dtype=numpy.float32), whole, fill=1.0, elements=memory.size) == 0
    assert (memory[~touched] == UNTOUCHED).all(), f"{name}: writes outside of its result"
