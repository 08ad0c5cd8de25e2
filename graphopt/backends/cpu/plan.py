"""The plan of a network: which kernels run in which order on which memory. Typed, printable, needs no compiler.

plan resnet18 for cpu: 24 steps, arena 3.1 MiB, weights 46.8 MiB
  input0 f32[1,3,224,224]
  0  copy      planes with halo 3x3                                  -> b0
  1  direct    conv 7x7 stride 2 3->64 @112x112 + relu               -> b1      conv1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.storage import Storage
from graphopt.errors import BackendError
from graphopt.ir.types import DType

__all__ = ["ALIGNMENT", "Buffer", "Plan", "Step", "WeightSlot", "allocate", "plan_weights"]

ALIGNMENT = 64
"""Bytes: a cache line, and a vector of 16 floats."""
SLACK = 64
"""Readable bytes behind the last buffer of the arena and of the weights: a kernel may load a whole vector at a tail."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one or more values. `storage` is the view that covers all of it, with its halo.

    `kind`: `arena` (shared over time by liveness), `input` and `output` (the caller's, number `index`),
    `state` (a parameter or constant as it is, in the weights blob, called `state`).
    """

    name: str
    kind: str
    storage: Storage
    index: int = 0
    state: str = ""

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return self.storage.extent * self.storage.dtype.bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel, where it came from (names of IR nodes, module path), and why it was chosen."""

    kernel: Kernel
    source: str = ""
    reason: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightSlot:
    """One array in the weights blob: packed array `index` of a step, or a state as it is."""

    offset: int
    bytes: int
    step: int = -1
    index: int = 0
    state: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that the emitter needs. `offsets` are bytes in the arena by buffer name."""

    name: str
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    buffers: Mapping[str, Buffer]
    steps: tuple[Step, ...]
    offsets: Mapping[str, int] = field(default_factory=dict[str, int])
    arena_bytes: int = 0
    weights: tuple[WeightSlot, ...] = ()
    weights_bytes: int = 0

    @property
    def scratch(self) -> int:
        """Floats of scratch per worker."""
        return max((step.kernel.scratch for step in self.steps), default=0)

    @property
    def shared(self) -> int:
        """Floats of scratch that workers share."""
        return max((step.kernel.shared for step in self.steps), default=0)

    @property
    def text(self) -> str:
        """The whole plan for people."""
        lines = [
            f"plan {self.name} for cpu: {len(self.steps)} steps, arena {_size(self.arena_bytes)}, weights {_size(self.weights_bytes)}, "
            f"scratch {_size(4 * self.scratch)} a worker + {_size(4 * self.shared)} shared"
        ]
        lines += [f"  {storage.text}" for storage in self.inputs]
        for number, step in enumerate(self.steps):
            writes = ", ".join(storage.text for storage in step.kernel.writes)
            line = f"  {number:<3} {step.kernel.algorithm:<12} {step.kernel.describe():<64} -> {writes}"
            line += f"    {step.source}" if step.source else ""
            lines.append(line + (f"    [{step.reason}]" if step.reason else ""))
        lines += [f"  return {storage.text}" for storage in self.outputs]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return self.text


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def allocate(steps: Sequence[Step], buffers: Mapping[str, Buffer]) -> tuple[dict[str, int], int]:
    """Offsets of the arena buffers and the arena's size in bytes.

    A buffer lives from the first step that writes it to the last that touches it. Buffers are placed from
    large to small, each at the lowest offset that is free while it lives (greedy by size: Pisarchyk and Lee,
    "Efficient memory management for deep neural net inference", 2020).

    Raises:
        BackendError: a step reads a buffer that nothing has written.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for storage in step.kernel.reads:
            if buffers[storage.buffer].kind == "arena" and storage.buffer not in first:
                raise BackendError(f"step {number} reads {storage.text}, which no step before it has written")
            last[storage.buffer] = number
        for storage in step.kernel.writes:
            first.setdefault(storage.buffer, number)
            last[storage.buffer] = number
    arena = [name for name, buffer in buffers.items() if buffer.kind == "arena" and name in first]
    arena.sort(key=lambda name: (-buffers[name].bytes, first[name]))
    offsets: dict[str, int] = {}
    placed: list[str] = []
    for name in arena:
        rivals = sorted(
            (offsets[other], offsets[other] + _aligned(buffers[other].bytes))
            for other in placed
            if first[other] <= last[name] and first[name] <= last[other]
        )
        place = 0
        for begin, end in rivals:
            if place + _aligned(buffers[name].bytes) <= begin:
                break
            place = max(place, end)
        offsets[name] = place
        placed.append(name)
    total = max((offsets[name] + _aligned(buffers[name].bytes) for name in placed), default=0)
    return offsets, total + SLACK


def plan_weights(steps: Sequence[Step], buffers: Mapping[str, Buffer]) -> tuple[tuple[WeightSlot, ...], int]:
    """Where each packed array and each raw state lies in the weights blob, and the blob's size in bytes."""
    slots: list[WeightSlot] = []
    place = 0
    for number, step in enumerate(steps):
        for index, packed in enumerate(step.kernel.packed):
            size = prod(packed.shape) * DType.parse(packed.dtype).bytes
            slots.append(WeightSlot(place, size, step=number, index=index))
            place += _aligned(size)
    for buffer in buffers.values():
        if buffer.kind == "state":
            slots.append(WeightSlot(place, buffer.bytes, state=buffer.state))
            place += _aligned(buffer.bytes)
    return tuple(slots), place + SLACK


def finish(name: str, inputs: Sequence[Storage], outputs: Sequence[Storage], buffers: Mapping[str, Buffer], steps: Sequence[Step]) -> Plan:
    """A plan with its memory laid out."""
    offsets, arena_bytes = allocate(steps, buffers)
    weights, weights_bytes = plan_weights(steps, buffers)
    return Plan(name, tuple(inputs), tuple(outputs), dict(buffers), tuple(steps), offsets, arena_bytes, weights, weights_bytes)
