"""A graph as Python source: one file to read, run, train and keep, which needs torch and safetensors only.

    to_python(graph, "resnet18/")
    ->  resnet18/model.py               class Resnet18(nn.Module), load()
        resnet18/weights.safetensors

    from model import load
    model = load()                      # in eval mode

The states keep their original dotted names, so `state_dict()` is interchangeable with the original
model's. The text is deterministic. Names of the graph can't break out of it: see `source_emitter`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import torch

from graphopt.backends.calling import identifier, is_fixed, parameters, restore_output
from graphopt.backends.reference import functions
from graphopt.backends.reference.interpreter import state_tensor
from graphopt.capture.module import named_states
from graphopt.capture.source_emitter import RESERVED_NAMES, Names, SourceEmitter, Text, literal
from graphopt.errors import ArtifactError, LoweringError
from graphopt.ir.attributes import Attribute, Ref
from graphopt.ir.graph import CallStructure, Graph, State

__all__ = ["python_source", "to_python"]

_HEADER = '''"""{title}: a network as plain PyTorch. Needs torch and safetensors.

    from model import load

    model = load()      # in eval mode, with the numbers of weights.safetensors

States have the names of the original model, and train() and eval() switch what they switched there.
"""

from __future__ import annotations

{imports}

'''

_CLASSES = '''
class Holder(nn.Module):
    """A container for states, where the original model had a module."""


class Network(nn.Module):
    """A module whose states are declared by their dotted names."""

    def __init__(self):
        super().__init__()
        self.declared = []

    def declare(self, name, dtype, shape, *, trainable=None, persistent=True):
        """Make a parameter (`trainable` True or False) or a buffer (`trainable` None), filled with zeros."""
        tensor = torch.zeros(shape, dtype=dtype)
        if trainable is not None:
            tensor = nn.Parameter(tensor, requires_grad=trainable)
        self._place(name, tensor, persistent)
        self.declared.append(name)

    def tie(self, name, other):
        """Make `name` another name of the state `other`."""
        self._place(name, self.state(other), True)

    def state(self, name):
        """The parameter or buffer of that name."""
        *path, leaf = name.split(".")
        holder = self
        for component in path:
            holder = holder._modules[component]
        return holder._parameters[leaf] if leaf in holder._parameters else holder._buffers[leaf]

    def _place(self, name, tensor, persistent):
        *path, leaf = name.split(".")
        holder = self
        for component in path:
            holder = holder._modules.setdefault(component, Holder())
        if isinstance(tensor, nn.Parameter):
            holder._parameters[leaf] = tensor
            return
        holder._buffers[leaf] = tensor
        if not persistent:
            holder._non_persistent_buffers_set.add(leaf)

'''

_LOAD = '''

def load(folder=None):
    """The network in eval mode, with the numbers of weights.safetensors (beside this file unless `folder` is given)."""
    file = (Path(__file__).parent if folder is None else Path(folder)) / "weights.safetensors"
    tensors = load_file(file)
    model = {name}()
    if set(tensors) != set(model.declared):
        raise ValueError(f"{{file}} has other states: {{sorted(set(tensors) ^ set(model.declared))}}")
    for name, tensor in tensors.items():
        state = model.state(name)
        if state.shape != tensor.shape or state.dtype != tensor.dtype:
            found, needed = (f"{{t.dtype}} {{tuple(t.shape)}}" for t in (tensor, state))
            raise ValueError(f"{{file}}: {{name}} is {{found}}, needs {{needed}}")
        state.data = tensor
    return model
'''


def to_python(graph: Graph, folder: str | Path) -> None:
    """Write `model.py` and `weights.safetensors` to a folder, which is made where it is missing.

    Raises:
        BackendError: a state has no numbers.
        LoweringError: an opaque op is not registered with torch, or a symbol follows from no input.
        ArtifactError: the numbers can't be written.
    """
    text = python_source(graph)
    tensors = _weights(graph)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    from safetensors.torch import save_file

    try:
        save_file(tensors, folder / "weights.safetensors")
    except Exception as error:  # safetensors raises its own class, which derives from Exception only
        raise ArtifactError(
            f"the weights can't be written: {error}", where=str(folder), fix="give a folder where you may write, on a disk with room"
        ) from error
    (folder / "model.py").write_text(text, encoding="utf-8")


def python_source(graph: Graph) -> str:
    """The text of `model.py`.

    Raises:
        LoweringError: see `to_python`.
    """
    title = "".join(part[:1].upper() + part[1:] for part in identifier(graph.name, "Model").split("_")) or "Model"
    title = f"{title}Model" if title in RESERVED_NAMES | {"Holder", "Network"} else title
    helpers: set[str] = set()
    forward = _forward(graph, helpers)
    parts = [_HEADER.format(title=title, imports=_imports(helpers))]
    parts += [f"\n{inspect.getsource(getattr(functions, name))}\n" for name in functions.__all__ if name in helpers]
    parts += [_CLASSES, *_class_lines(graph, title), *forward, _LOAD.format(name=title)]
    return "".join(parts)


def _imports(helpers: set[str]) -> str:
    lines = ["from pathlib import Path", "", "import torch", "import torch.nn.functional as F"]
    lines += ["from safetensors.torch import load_file", "from torch import nn"]
    if helpers & {"cond", "fixed", "item"}:
        lines.insert(1, "from typing import Any")
    abstract = [name for name, helper in (("Callable", "cond"), ("Mapping", "item")) if helper in helpers]
    if abstract:
        lines.insert(0, f"from collections.abc import {', '.join(abstract)}")
    return "\n".join(lines)


def _class_lines(graph: Graph, title: str) -> list[str]:
    lines = ["", f"class {title}(Network):", '    """See the top of this file."""', ""]
    lines += ["    def __init__(self):", "        super().__init__()"]
    lines += [f"        {_declaration(name, state, own=name in graph.states)}" for name, state in named_states(graph).items()]
    for state in graph.states.values():
        lines += [f"        self.tie({literal(name)}, {literal(state.name)})" for name in state.tied]
    return [f"{line}\n" for line in [*lines, "        self.eval()", ""]]


def _declaration(name: str, state: State, *, own: bool) -> str:
    dtype = f"torch.{state.type.dtype.torch_name}"
    options = ""
    if own and state.kind == "param":
        trainable = state.trainable and state.type.dtype.kind in ("float", "complex")
        options = f", trainable={trainable}"
    elif not own or state.kind == "constant" or not state.persistent:
        options = ", persistent=False"
    return f"self.declare({literal(name)}, {dtype}, {literal(state.type.static_shape)}{options})"


def _forward(graph: Graph, helpers: set[str]) -> list[str]:
    given = parameters(graph, graph.structure, RESERVED_NAMES - {"self"})
    names = Names({parameter.name for parameter in given})
    head = ["self"]
    body: list[str] = []
    places: dict[int, str] = {}
    for parameter in given:
        head.append(f"{parameter.name}={literal(parameter.place)}" if parameter.optional else parameter.name)
        if is_fixed(parameter.place):
            helpers.add("fixed")
            body.append(f"        fixed({literal(parameter.name)}, {parameter.name}, {literal(parameter.place)})")
        else:
            _unpack_argument(parameter.place, parameter.name, places, helpers)
    missing = [value.name for index, value in enumerate(graph.inputs) if index not in places]
    if missing:
        raise LoweringError(f"the call structure of graph '{graph.name}' has no place for the inputs {missing}")
    inputs: list[str] = []
    for index, value in enumerate(graph.inputs):
        name = places[index]
        if not name.isidentifier():
            inputs.append(names.fresh(value.name))
            body.append(f"        {inputs[-1]} = {name}")
        else:
            inputs.append(name)
    emitter = SourceEmitter(
        graph, inputs, names, depth=2, states={state.value: name for name, state in named_states(graph).items()}, helpers=helpers
    )
    lines, outputs = emitter.run()
    shapes = [f"        {name}: {value.type.text}" for name, value in zip(inputs, graph.inputs, strict=True)]
    doc = ['        """The network.', "", *shapes, '        """'] if shapes else ['        """The network."""']
    plain = CallStructure(graph.structure.args, graph.structure.kwargs, graph.structure.returns)
    returned = f"        return {_returned(restore_output(plain, outputs))}"
    return [f"{line}\n" for line in [f"    def forward({', '.join(head)}):", *doc, *body, *lines, returned]]


def _returned(value: object) -> str:
    if isinstance(value, Text):
        return value.code
    return literal(value)


def _unpack_argument(place: Attribute, code: str, places: dict[int, str], helpers: set[str]) -> None:
    match place:
        case Ref():
            places[place.index] = code
        case tuple() | list():
            helpers.add("item")
            for index, inner in enumerate(place):
                _unpack_argument(inner, f"item({code}, {index})", places, helpers)
        case Mapping():
            helpers.add("item")
            for key, inner in place.items():
                _unpack_argument(inner, f"item({code}, {literal(key)})", places, helpers)
        case _:
            return


def _weights(graph: Graph) -> dict[str, torch.Tensor]:
    """The numbers of all states; safetensors wants each in memory of its own."""
    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, state in named_states(graph).items():
        tensor = state_tensor(state).contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen and tensor.numel():
            tensor = tensor.clone()
        seen.add(storage)
        tensors[name] = tensor
    return tensors
