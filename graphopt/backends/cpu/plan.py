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

from graphopt.backends.arena import Life, aligned, place, touched
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.text import size_text
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
        memory = f"arena {size_text(self.arena_bytes)}, weights {size_text(self.weights_bytes)}"
        scratch = f"scratch {size_text(4 * self.scratch)} a worker + {size_text(4 * self.shared)} shared"
        lines = [f"plan {self.name} for cpu: {len(self.steps)} steps, {memory}, {scratch}"]
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


def allocate(steps: Sequence[Step], buffers: Mapping[str, Buffer]) -> tuple[dict[str, int], int]:
    """Offsets of the arena buffers and the arena's size in bytes.

    A buffer lives from the first step that writes it to the last that touches it.

    Raises:
        BackendError: a step reads a buffer that nothing has written.
    """
    arena = {name for name, buffer in buffers.items() if buffer.kind == "arena"}
    first, last = touched([(step.kernel.reads, step.kernel.writes) for step in steps], arena)
    lives = {name: Life(buffers[name].bytes, first[name], last[name]) for name in buffers if name in arena and name in first}
    offsets, total = place(lives, ALIGNMENT)
    return offsets, total + SLACK


def plan_weights(steps: Sequence[Step], buffers: Mapping[str, Buffer]) -> tuple[tuple[WeightSlot, ...], int]:
    """Where each packed array and each raw state lies in the weights blob, and the blob's size in bytes."""
    slots: list[WeightSlot] = []
    position = 0
    for number, step in enumerate(steps):
        for index, packed in enumerate(step.kernel.packed):
            size = prod(packed.shape) * DType.parse(packed.dtype).bytes
            slots.append(WeightSlot(position, size, step=number, index=index))
            position += aligned(size, ALIGNMENT)
    for buffer in buffers.values():
        if buffer.kind == "state":
            slots.append(WeightSlot(position, buffer.bytes, state=buffer.state))
            position += aligned(buffer.bytes, ALIGNMENT)
    return tuple(slots), position + SLACK


def finish(name: str, inputs: Sequence[Storage], outputs: Sequence[Storage], buffers: Mapping[str, Buffer], steps: Sequence[Step]) -> Plan:
    """A plan with its memory laid out."""
    offsets, arena_bytes = allocate(steps, buffers)
    weights, weights_bytes = plan_weights(steps, buffers)
    return Plan(name, tuple(inputs), tuple(outputs), dict(buffers), tuple(steps), offsets, arena_bytes, weights, weights_bytes)
