"""Turns in-place operations into functional ones, with what aliasing makes of them.

    y = conv(x); v = y[:, 0]; v.fill_(1); return y + 1
    ->
    %y = conv2d(%x)
    %full = full(1.0)
    %y_1 = slice_scatter(%y, %full)      every alias of y now reads %y_1
    %add = add(%y_1, 1)

Which tensors share memory is read off the fake tensors of the trace: they share a storage exactly where
the real ones do, for `reshape` and `contiguous` too. How an alias is seen through its storage is read off
the graph: the chain of nodes (reshape, permute, slice, select, split, expand) between the two.

A storage has a current value and a version. Writing to an alias computes the storage's new value by the
inverse chain and raises the version; an alias of an older version is computed again when it is next read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from graphopt.capture.schema import storage_identity
from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Operand, Value
from graphopt.ir.types import TensorType
from graphopt.ops import DROPOUTS

if TYPE_CHECKING:
    from graphopt.capture.context import Context

__all__ = ["Alias", "AliasTable", "Storage"]


@dataclass(frozen=True, slots=True)
class Step:
    """One view: result `index` of `op` with these attributes and further operands; `types` are the results'."""

    op: str
    attrs: Mapping[str, Attribute]
    index: int
    operands: tuple[Operand, ...]
    types: tuple[TensorType, ...]


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that one or more traced tensors look at; `root` is the value of the whole.

    `owner` is the name of the input or state whose memory it is, None for memory of the call itself.
    `known` are the values of its aliases in the present version, with the steps that lead to them.
    """

    root: Value
    owner: str | None = None
    version: int = 0
    known: dict[Value, tuple[Step, ...] | None] = field(default_factory=dict["Value", "tuple[Step, ...] | None"])


@dataclass(slots=True, eq=False)
class Alias:
    """A traced tensor: `steps` lead from its storage's root to it; None where they are not known.

    `value` is right as long as `version` is the storage's.
    """

    value: Value
    storage: Storage
    steps: tuple[Step, ...] | None
    version: int


class AliasTable:
    """All storages of a trace, by the identity of the fake storage."""

    def __init__(self) -> None:
        self._storages: dict[int, Storage] = {}

    def define(self, fake: torch.Tensor, value: Value) -> Alias:
        """Record that the traced tensor `fake` has the value `value`.

        A tensor on a storage that is known becomes an alias of it, else it starts a storage.
        """
        key = storage_identity(fake)
        storage = self._storages.get(key) if key is not None else None
        if storage is None:
            storage = Storage(value)
            if key is not None:
                self._storages[key] = storage
        steps = _steps_between(storage, value)
        storage.known[value] = steps
        return Alias(value, storage, steps, storage.version)

    def share(self, fake: torch.Tensor, alias: Alias) -> Alias:
        """Record that `fake`, a tensor of an inlined sub-graph or its result, is the tensor of `alias`."""
        key = storage_identity(fake)
        if key is not None:
            self._storages.setdefault(key, alias.storage)
        return alias

    def read(self, context: Context, alias: Alias) -> Value:
        """The current value of a traced tensor.

        Raises:
            UnsupportedModelError: its storage was written and the view that it is can't be computed again.
        """
        storage = alias.storage
        if alias.version != storage.version:
            if alias.steps is None:
                raise _unknown_view(alias)
            value = storage.root
            for step in alias.steps:
                value = _apply(context, step, value)
            alias.value, alias.version = value, storage.version
            storage.known[value] = alias.steps
        return alias.value

    def write(self, context: Context, alias: Alias, new: Value) -> None:
        """Make `new`, of the same shape and dtype, the value of a traced tensor and update its storage.

        Raises:
            UnsupportedModelError: the tensor is a view that can't be written through.
        """
        storage = alias.storage
        if alias.steps is None:
            raise _unknown_view(alias)
        before = [storage.root]
        for step in alias.steps[:-1]:
            before.append(_apply(context, step, before[-1]))
        root = new
        for step, source in zip(reversed(alias.steps), reversed(before[: len(alias.steps)]), strict=True):
            root = _invert(context, step, source, root)
        storage.root = root
        storage.version += 1
        alias.value, alias.version = new, storage.version
        storage.known = {new: alias.steps}


def _unknown_view(alias: Alias) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"an in-place operation writes memory that %{alias.value.name} shares in a way that the graph does not show",
        fix="clone() the tensor before the in-place operation, or use the operation that returns a new tensor",
    )


def _steps_between(storage: Storage, value: Value) -> tuple[Step, ...] | None:
    """The nodes that lead from a storage's root, or from another alias of it, to a value."""
    steps: list[Step] = []
    current = value
    while current is not storage.root:
        if current in storage.known:
            prefix = storage.known[current]
            return None if prefix is None else (*prefix, *reversed(steps))
        producer = current.producer
        if producer is None or not producer.operands or not isinstance(producer.operands[0], Value):
            return None
        if producer.op in DROPOUTS:  # in eval mode, in which the trace is taken, a dropout returns its input itself
            current = producer.operands[0]
            continue
        types = tuple(result.type for result in producer.results)
        steps.append(Step(producer.op, producer.attrs, current.index, producer.operands[1:], types))
        current = producer.operands[0]
    return tuple(reversed(steps))


def _apply(context: Context, step: Step, value: Value) -> Value:
    return context.append(step.op, (value, *step.operands), step.attrs, step.types)[step.index]


Inverse = Callable[["Context", Step, Value, Value], Value]


def _invert(context: Context, step: Step, source: Value, new: Value) -> Value:
    inverse = _INVERSES.get(step.op)
    if inverse is None:
        raise UnsupportedModelError(
            f"an in-place operation writes through {step.op}, which has no inverse here",
            fix="clone() the tensor before the in-place operation, or use the operation that returns a new tensor",
        )
    return inverse(context, step, source, new)


def _unreshape(context: Context, step: Step, source: Value, new: Value) -> Value:
    return context.emit("reshape", new, shape=source.shape)


def _unpermute(context: Context, step: Step, source: Value, new: Value) -> Value:
    axes = step.attrs["axes"]
    order = [axis for axis in axes if isinstance(axis, int)] if isinstance(axes, tuple) else []
    return context.emit("permute", new, axes=tuple(order.index(axis) for axis in range(len(order))))


def _unslice(context: Context, step: Step, source: Value, new: Value) -> Value:
    return context.emit("slice_scatter", source, new, **step.attrs)


def _unselect(context: Context, step: Step, source: Value, new: Value) -> Value:
    return context.emit("select_scatter", source, new, **step.attrs)


def _unsplit(context: Context, step: Step, source: Value, new: Value) -> Value:
    sizes = step.attrs["sizes"]
    start: Dim = 0
    for size in sizes[: step.index] if isinstance(sizes, tuple) else ():
        if isinstance(size, int | Expression):
            start = start + size
    axis = step.attrs["axis"]
    length = new.shape[axis] if isinstance(axis, int) else 0
    return context.emit("slice_scatter", source, new, axis=axis, start=start, stop=start + length, step=1)


def _unexpand(context: Context, step: Step, source: Value, new: Value) -> Value:
    if source.shape == new.shape:
        return new
    raise UnsupportedModelError(
        f"an in-place operation writes through expand from {source.type.text} to {new.type.text}, where one number is in several places",
        fix="clone() the expanded tensor first",
    )


_INVERSES: dict[str, Inverse] = {
    "reshape": _unreshape,
    "permute": _unpermute,
    "slice": _unslice,
    "select": _unselect,
    "split": _unsplit,
    "expand": _unexpand,
}
