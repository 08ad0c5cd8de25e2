"""The frame of the random graphs: what a graph starts with, what its values are called, and how it ends."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

from graphopt.errors import TypeInferenceError
from graphopt.ir.attributes import Attribute, Ref
from graphopt.ir.dims import Dim
from graphopt.ir.graph import CallStructure, Graph, Operand, Source, Value
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType
from graphopt.ops import builder

__all__ = ["HOSTILE_NAMES", "GraphMaker"]

HOSTILE_NAMES = (
    'quo"te',
    "*/ comment",
    "new\nline",
    "nul\x00",
    "right\u202eleft",
    "??/",
    "graph",
    "return",
    "none",
    "f32",
    "0",
    "-1",
    " ",
    "%x",
    "a b",
    "\\",
    "snow\u2603man",
    "\U0001f600",
    "__metadata__",
    "region:0:x",
    "../../etc/passwd",
    "lambda",
    "${x}",
    "{}",
    ".",
    "..",
)
"""Names that a careless printer, path or generated source would trip over."""

_MOST_ELEMENTS = 4096


class GraphMaker:
    """Grows one graph: names, states, picking of values. `tests.support.random_graphs` says what may be added."""

    def __init__(self, rng: random.Random, symbolic: bool, hostile: bool) -> None:
        self.rng = rng
        self.hostile = hostile
        self.sparsity = False
        self.builder = builder("random")
        self.graph = self.builder.graph
        self.batch: Dim = self.builder.symbol("batch", 1, 16) if symbolic else rng.choice((1, 2, 3))
        self.values: list[Value] = []
        channels, size = rng.choice((2, 4, 6)), rng.choice((4, 5, 8))
        shapes: list[tuple[Dim, ...]] = [(self.batch, channels, size, size)]
        if rng.random() < 0.5:
            shapes.append((self.batch, rng.choice((3, 8))))
        if rng.random() < 0.3:
            shapes.append((self.batch, 5, 8))
        for shape in shapes:
            self.values.append(self.builder.input(self.name("x"), TensorType(DType.f32, shape)))

    def grow(self, kinds: Sequence[Callable[[], Value | None]], nodes: int) -> Graph:
        """Add nodes until there are enough; then return the values that nobody reads, or most of them."""
        attempts = 0
        while self.graph.node_count < nodes and attempts < 40 * nodes:
            attempts += 1
            try:
                made = self.rng.choice(kinds)()
            except TypeInferenceError:
                continue  # operands that do not suit after all; nothing was added
            if made is not None:
                self.values.append(made)
        self._read_inputs()
        unread = [value for value in self.graph.values if value.producer is not None and not value.use_count]
        kept = [value for value in unread if self.rng.random() < 0.8] or unread[-1:] or [self.values[-1]]
        outputs: list[Operand] = list(kept)
        structure = None
        if self.rng.random() < 0.3:
            structure = self._structure(len(outputs))
        self.builder.outputs(*outputs, structure=structure)
        return self.graph

    def _read_inputs(self) -> None:
        for value in self.graph.inputs:
            if not value.use_count:
                self.values.append(self.add("relu", value))

    def _structure(self, outputs: int) -> CallStructure:
        count = len(self.graph.inputs)
        args: tuple[Attribute, ...] = (Ref(0), None, 1.5)
        kwargs: dict[str, Attribute] = {f"input_{i}": Ref(i) for i in range(1, count)}
        returns: dict[str, Attribute] = {f"key {i}": Ref(i) for i in range(outputs)}
        return CallStructure(args, kwargs, returns)

    def name(self, hint: str) -> str:
        """A free name: plain, a module path, or hostile."""
        if self.hostile and self.rng.random() < 0.5:
            hint = self.rng.choice(HOSTILE_NAMES) if self.rng.random() < 0.7 else "".join(self.rng.choices(string.printable, k=5))
        elif self.rng.random() < 0.5:
            hint = f"layer{self.rng.randrange(4)}.{hint}"
        return self.graph.fresh_name(hint)

    def add(self, op: str, *operands: Operand, types: Sequence[TensorType] | None = None, **attrs: Attribute) -> Value:
        """Append a node and return its first result."""
        source = Source(f"layer{self.rng.randrange(4)}", "model.py", self.rng.randrange(1, 500)) if self.rng.random() < 0.5 else None
        return self.builder.insert(op, operands, attrs, name=self.name(op.split(".")[-1]), types=types, source=source).results[0]

    def state(self, hint: str, shape: tuple[int, ...], kind: str = "param") -> Value:
        """A parameter or buffer, sometimes one that exists already (shared weights)."""
        type_ = TensorType(DType.f32, shape)
        if self.sparsity and len(shape) >= 2 and self.rng.random() < 0.5:
            type_ = replace(type_, sparsity=self._sparsity())
        if kind == "param" and self.rng.random() < 0.1:
            for state in self.graph.states.values():
                if state.kind == "param" and state.type == type_ and state.name.endswith(hint):
                    return state.value
        name = self.graph.fresh_name(f"{self.name('layer')}.{hint}")
        if kind == "buffer":
            return self.builder.state(name, type_, kind="buffer", persistent=self.rng.random() < 0.9)
        tied = (self.graph.fresh_name(f"tied.{name}"),) if self.rng.random() < 0.1 else ()
        return self.builder.state(name, type_, kind="param", tied=tied, trainable=self.rng.random() < 0.9)

    def _sparsity(self) -> Sparsity:
        match self.rng.randrange(3):
            case 0:
                return Sparsity(SparsityPattern.UNSTRUCTURED, self.rng.choice((0.5, 0.8, 1e-05, 1.0)))
            case 1:
                return Sparsity(SparsityPattern.BLOCK, 0.75, (self.rng.choice((1, 4)), 2))
            case _:
                return Sparsity(SparsityPattern.N_M, 0.5, (2, 4), 1)

    def pick(self, *ranks: int, dtype: DType = DType.f32) -> Value | None:
        """A value of one of the ranks with something in it, later ones more often; None where there is none."""
        found = [
            v
            for v in self.values
            if v.type.dtype is dtype and (not ranks or v.type.rank in ranks) and 0 not in v.shape and _static_size(v) <= _MOST_ELEMENTS
        ]
        if not found:
            return None
        return found[max(self.rng.randrange(len(found)), self.rng.randrange(len(found)))]


def _static_size(value: Value) -> int:
    """Number of elements for a batch of 1; huge for powers of the batch."""
    return math.prod(dim if isinstance(dim, int) else 1 if dim.weight == 1 else _MOST_ELEMENTS for dim in value.shape)
