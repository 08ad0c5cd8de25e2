"""Parameters, buffers and constants of a captured model.

    every entry of state_dict()   ->  one state, in the same order, used or not
    two names of one tensor       ->  one state under the first name, the others in `tied`
    tensors that tracing lifted   ->  states of kind `constant`

Tensors are shared with the model, not copied. Two names are tied when they are the same memory seen in
the same way at the time of capture; equal numbers in two places are not a tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graphopt.capture.schema import storage_identity
from graphopt.errors import UnsupportedModelError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import GraphEditor, State, StateKind, Value
from graphopt.ir.types import DType, TensorType

__all__ = ["Entry", "StateTable", "check_tensors", "dtype_of", "model_entries", "program_entries", "tensor_type"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One named tensor of a model."""

    name: str
    tensor: torch.Tensor
    kind: StateKind
    persistent: bool = True


def dtype_of(dtype: torch.dtype) -> DType:
    """The graph's dtype for torch's.

    Raises:
        UnsupportedModelError: quantised and exotic dtypes.
    """
    found = _DTYPES.get(dtype)
    if found is None:
        raise UnsupportedModelError(
            f"a tensor has the dtype {dtype}; supported are {', '.join(d.torch_name for d in DType)}",
            fix="capture the model before quantisation",
        )
    return found


_DTYPES: dict[torch.dtype, DType] = {getattr(torch, d.torch_name): d for d in DType if hasattr(torch, d.torch_name)}


def tensor_type(tensor: torch.Tensor) -> TensorType:
    """Type of a real tensor, whose sizes are integers."""
    return TensorType(dtype_of(tensor.dtype), tuple(int(size) for size in tensor.shape))


def model_entries(model: nn.Module) -> Iterator[Entry]:
    """Parameters and buffers in the order of `state_dict`, with buffers that it leaves out, under every name."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dotted = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield Entry(dotted + name, parameter, "param")
        passing = module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]  # torch has no public question for it
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            yield Entry(dotted + name, buffer, "buffer", name not in passing)


def program_entries(program: ExportedProgram) -> Iterator[Entry]:
    """Parameters and buffers of an exported program, in the order of its signature."""
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            continue
        if spec.kind is InputKind.PARAMETER:
            yield Entry(spec.target, program.state_dict[spec.target], "param")
        elif spec.kind is InputKind.BUFFER:
            tensor = program.state_dict.get(spec.target)
            source = tensor if tensor is not None else program.constants[spec.target]
            if isinstance(source, torch.Tensor):
                yield Entry(spec.target, source, "buffer", tensor is not None and spec.persistent is not False)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def check_tensors(entries: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that have no numbers in ordinary dense memory.

    Raises:
        UnsupportedModelError: on the meta device, sparse, quantised or of a name that is no text; the message names the first.
    """
    for name, tensor in entries.items():
        if not _is_text(name):
            raise UnsupportedModelError(
                f"the name {name!r} holds half of a surrogate pair, which no file can hold",
                fix="give that parameter or module another name",
            )
        if tensor.is_meta:
            raise UnsupportedModelError(
                f"'{name}' is on the meta device and has no numbers",
                where=name,
                fix="load the weights first, or model.to_empty(device='cpu') and initialise them",
            )
        if tensor.layout is not torch.strided:
            raise UnsupportedModelError(
                f"'{name}' has the layout {tensor.layout}, needs torch.strided", where=name, fix=f"use {name}.to_dense()"
            )
        if tensor.is_quantized:
            raise UnsupportedModelError(f"'{name}' is quantised ({tensor.dtype})", where=name, fix="capture the model before quantisation")
        if torch.nn.parameter.is_lazy(tensor):
            raise UnsupportedModelError(f"'{name}' is not initialised yet", where=name, fix="run the model once before capture")
        dtype_of(tensor.dtype)


class StateTable:
    """The states of one graph, by every name that the model has for them."""

    def __init__(self, editor: GraphEditor) -> None:
        self._editor = editor
        self._by_memory: dict[object, State] = {}
        self._by_name: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        """Declare a tensor, or tie its name to the state that holds the same memory."""
        if entry.name in self._by_name:
            return
        tensor = entry.tensor.detach()
        key = (entry.kind, *_memory(entry.tensor))
        known = self._by_memory.get(key)
        if known is not None:
            tied = replace(self._editor.graph.states[known.name], tied=(*self._editor.graph.states[known.name].tied, entry.name))
            self._editor.update_state(tied)
            self._by_name[entry.name] = known.name
            return
        state = State(
            Value(entry.name, tensor_type(tensor)),
            entry.kind,
            TensorData(tensor),
            trainable=entry.kind == "param" and entry.tensor.requires_grad,
            persistent=entry.persistent if entry.kind == "buffer" else entry.kind == "param",
        )
        self._editor.add_state(state)
        self._by_memory[key] = state
        self._by_name[entry.name] = entry.name

    def value(self, name: str) -> Value:
        """The value of the tensor that the model calls `name`."""
        return self._editor.graph.states[self._by_name[name]].value

    def own(self, name: str) -> None:
        """Give a state numbers of its own, a copy, because the model changes its tensor when it runs."""
        state = self._editor.graph.states[name]
        if state.data is not None:
            self._editor.update_state(replace(state, data=TensorData(state.data.tensor().clone())))

    def __contains__(self, name: str) -> bool:
        return name in self._by_name


def _memory(tensor: torch.Tensor) -> tuple[object, ...]:
    """A key that two tensors share when they are the same memory seen in the same way."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (storage_identity(tensor), tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
