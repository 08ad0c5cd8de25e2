"""How a model is called and what it returns, as data.

    forward(x, mask=None)                 ->  args ($0,)  kwargs {"mask": none}
    ModelOutput(logits=a, states=(b, c))  ->  {"logits": $0, "states": ($1, $2)}

The graph keeps only tuples, lists, dicts and literals, which can be saved and need no user class to
read. Dataclasses and ModelOutputs become dicts. The pytree specs of the original call, which know the
classes, stay beside it in `CallStructure.python`, in memory only: `rebuild_output` uses them to give
back the original type, and falls back to the plain structure in a graph that was loaded from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import Attribute, Ref
from graphopt.ir.graph import CallStructure

__all__ = ["PythonStructure", "call_structure", "output_leaves", "rebuild_output"]


@dataclass(frozen=True, slots=True)
class PythonStructure:
    """Pytree specs of a call in this process: what `forward` takes, `(args, kwargs)`, and what it returns.

    `leaves` are the leaves of the output in order: `Ref(i)` for output i of the graph, or a literal.
    """

    inputs: pytree.TreeSpec
    output: pytree.TreeSpec
    leaves: tuple[Attribute, ...]


def call_structure(
    in_spec: pytree.TreeSpec | None, in_leaves: Sequence[Attribute], out_spec: pytree.TreeSpec | None, out_leaves: Sequence[Attribute]
) -> CallStructure:
    """The structure of a call from torch's pytree specs and one leaf per input and output.

    Raises:
        UnsupportedModelError: a dict has keys that are no strings.
    """
    if in_spec is None or out_spec is None:
        raise UnsupportedModelError(
            "the exported program does not say how its inputs and outputs are structured",
            fix="export the model again with torch.export.export",
        )
    inputs = _plain(in_spec, list(in_leaves))
    if not (isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], Mapping)):
        raise UnsupportedModelError(
            f"the call is structured as {in_spec}, needs (args, kwargs)", fix="export the model again with torch.export.export"
        )
    returns = _plain(out_spec, list(out_leaves))
    return CallStructure(inputs[0], inputs[1], returns, python=PythonStructure(in_spec, out_spec, tuple(out_leaves)))


def output_leaves(structure: CallStructure) -> int:
    """Number of leaves that the model's output has, literals among them."""
    return len(structure.python.leaves) if isinstance(structure.python, PythonStructure) else 0


def rebuild_output(structure: CallStructure, outputs: Sequence[Any]) -> Any:
    """The flat outputs in the model's own structure: its ModelOutput, dataclass or named tuple where the
    graph was captured in this process, else tuples, lists and dicts."""
    python = structure.python
    if isinstance(python, PythonStructure):
        return pytree.tree_unflatten([_fill(leaf, outputs) for leaf in python.leaves], python.output)
    return _fill(structure.returns, outputs)


def _fill(place: Attribute, outputs: Sequence[Any]) -> Any:
    match place:
        case Ref(index):
            return outputs[index]
        case tuple():
            return tuple(_fill(item, outputs) for item in place)
        case list():
            return [_fill(item, outputs) for item in place]
        case Mapping():
            return {key: _fill(item, outputs) for key, item in place.items()}
        case _:
            return place


def _plain(spec: pytree.TreeSpec, leaves: list[Attribute]) -> Attribute:
    """A spec with its leaves filled in, as tuples, lists and dicts."""
    if spec.is_leaf():
        return leaves[0]
    children: list[Attribute] = []
    position = 0
    for child in spec.children():
        children.append(_plain(child, leaves[position : position + child.num_leaves]))
        position += child.num_leaves
    if spec.type is None:
        return None
    if spec.type is list:
        return children
    names = _field_names(spec, len(children))
    if names is None:
        return tuple(children)
    return dict(zip(names, children, strict=True))


def _field_names(spec: pytree.TreeSpec, count: int) -> list[str] | None:
    """Names of the children, or None where they are known by position."""
    context: Any = spec.context
    if isinstance(spec.type, type) and issubclass(spec.type, tuple):
        return None
    if isinstance(context, tuple | list) and context and isinstance(context[-1], list | tuple) and isinstance(context[0], list | tuple):
        context = context[0]  # registered dataclasses: (names of fields, names of fields that are None)
    elif isinstance(context, tuple | list) and len(context) == 2 and isinstance(context[1], list | tuple):
        context = context[1]  # defaultdict: (factory, keys)
    if isinstance(context, list | tuple) and len(context) == count:
        if all(isinstance(name, str) for name in context):
            return list(context)
        if isinstance(spec.type, type) and issubclass(spec.type, dict):
            raise UnsupportedModelError(f"a dict has the keys {list(context)}, needs strings", fix="use string keys in inputs and outputs")
    return None
