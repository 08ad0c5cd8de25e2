"""The plan of a network: which steps run in which order on which memory. Typed, printable, needs no GPU.

plan resnet18 for cuda, float16: 24 steps, one stream, arena 3.1 MiB, weights 22.3 MiB
  input0 f16[1,3,224,224] channels last
  0  cudnn convolution  7x7 stride 2 3->64 + relu        -> t0 f16[1,64,112,112] channels last    conv1
  stream 0: steps 0 to 23 in order
  arena 3211264 bytes
    b0   at 0          1605632 bytes    steps 1 to 4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.backends.arena import Life, place, touched
from graphopt.backends.cuda.kernel import Work
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.text import size_text

__all__ = ["ALIGNMENT", "Buffer", "Plan", "Step", "finish"]

ALIGNMENT = 256
"""Bytes; what torch's allocator aligns to, and more than any vector load needs."""

Kind = str
"""`arena` (shared over time by liveness), `torch` (the result of a library call, which torch allocates inside the graph's own
pool), `input` (static copy of input `index`), `state` (parameters, or numbers made of them)."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one or more values. `storage` is the view that covers all of it; its buffer is the name."""

    kind: Kind
    storage: Storage
    index: int = 0

    @property
    def name(self) -> str:
        """An identifier made of a counter."""
        return self.storage.buffer

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return self.storage.extent * self.storage.dtype.bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work, where it came from (names of IR values, module path), and why it was chosen."""

    work: Work
    source: str = ""
    reason: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that the emitter needs. `offsets` are bytes in the arena by buffer name, `lives` the steps between which a buffer of the
    arena is needed, to one behind the last where it is an output."""

    name: str
    dtype: str
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    buffers: Mapping[str, Buffer]
    steps: tuple[Step, ...]
    offsets: Mapping[str, int] = field(default_factory=dict[str, int])
    arena_bytes: int = 0
    lives: Mapping[str, Life] = field(default_factory=dict[str, Life])

    @property
    def weights_bytes(self) -> int:
        """Bytes of all states."""
        return sum(buffer.bytes for buffer in self.buffers.values() if buffer.kind == "state")

    @property
    def text(self) -> str:
        """The whole plan for people."""
        memory = f"arena {size_text(self.arena_bytes)}, weights {size_text(self.weights_bytes)}"
        lines = [f"plan {self.name} for cuda, {self.dtype}: {len(self.steps)} steps, one stream, {memory}"]
        lines += [f"  {storage.text}" for storage in self.inputs]
        for number, step in enumerate(self.steps):
            writes = ", ".join(storage.text for storage in step.work.writes)
            line = f"  {number:<3} {step.work.algorithm:<19} {step.work.describe():<56} -> {writes}"
            line += f"    {step.source}" if step.source else ""
            lines.append(line + (f"    [{step.reason}]" if step.reason else ""))
        lines += [f"  return {storage.text}" for storage in self.outputs]
        lines += self._memory_lines()
        return "\n".join(lines) + "\n"

    def _memory_lines(self) -> list[str]:
        """The stream of the steps, and where in the arena each buffer lies for how long."""
        lines = [f"  stream 0: steps 0 to {len(self.steps) - 1} in order"] if self.steps else []
        lines += [f"  arena {self.arena_bytes} bytes"] if self.lives else []
        for name, life in sorted(self.lives.items(), key=lambda item: (item[1].first, self.offsets[item[0]])):
            until = f"to {life.last}" if life.last < len(self.steps) else "to the end"
            lines.append(f"    {name:<4} at {self.offsets[name]:<10} {life.bytes:>10} bytes    steps {life.first} {until}")
        return lines

    def __str__(self) -> str:
        return self.text


def finish(
    name: str, dtype: str, inputs: Sequence[Storage], outputs: Sequence[Storage], buffers: Mapping[str, Buffer], steps: Sequence[Step]
) -> Plan:
    """A plan with its arena laid out: a buffer lives from the first step that writes it to the last that touches it, and
    to the end where it is an output.

    Raises:
        BackendError: a step reads a buffer that nothing has written.
    """
    filled = {name for name, buffer in buffers.items() if buffer.kind in ("arena", "torch")}
    first, last = touched([(step.work.reads, step.work.writes) for step in steps], filled)
    last.update({storage.buffer: len(steps) for storage in outputs})
    used = {storage.buffer for storage in (*inputs, *outputs)} | first.keys() | last.keys()
    kept = {name: buffer for name, buffer in buffers.items() if name in used}
    lives = {name: Life(buffer.bytes, first[name], last[name]) for name, buffer in kept.items() if buffer.kind == "arena"}
    offsets, total = place(lives, ALIGNMENT)
    return Plan(name, dtype, tuple(inputs), tuple(outputs), kept, tuple(steps), offsets, total, lives)
