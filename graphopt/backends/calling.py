"""Between a call as the user writes it and the graph's flat inputs and outputs.

    structure takes ($0, none) {"mask": $1, "use_cache": false}
    model(x, None, mask=m)   ->   inputs [x, m]

Literals were fixed at capture: they may be left out, and giving another value is an error.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from graphopt.errors import LoweringError, RunInputError
from graphopt.ir.attributes import Attribute, Ref, attribute_text
from graphopt.ir.graph import CallStructure, Graph

__all__ = ["Parameter", "flatten_call", "identifier", "is_fixed", "parameters", "restore_output", "same_literal"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of `forward`. `place` is what the structure holds there; `optional` ones default to that literal."""

    name: str
    place: Attribute
    optional: bool


def identifier(text: str, fallback: str = "value") -> str:
    """A Python identifier that resembles `text`: letters, digits and underscores, never a keyword."""
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_") or fallback
    if name[0].isdigit():
        name = f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) else name


def is_fixed(place: Attribute) -> bool:
    """True when no input goes into this place."""
    match place:
        case Ref():
            return False
        case tuple() | list():
            return all(is_fixed(item) for item in place)
        case Mapping():
            return all(is_fixed(item) for item in place.values())
        case _:
            return True


def parameters(graph: Graph, structure: CallStructure, reserved: frozenset[str] = frozenset()) -> tuple[Parameter, ...]:
    """The parameters of a `forward` that is called so; keywords without a default come before those with one.

    None is called as one of `reserved`, the names that the body of the function needs.

    Raises:
        LoweringError: a keyword argument is no Python identifier.
    """
    for name in structure.kwargs:
        if not name.isidentifier() or keyword.iskeyword(name) or name == "self" or name in reserved:
            raise LoweringError(f"keyword argument {name!r} of graph '{graph.name}' can't name a parameter of a Python function")
    taken = {"self", *structure.kwargs, *reserved}
    found: list[Parameter] = []
    last = max((index for index, place in enumerate(structure.args) if not is_fixed(place)), default=-1)
    keywords = sorted(structure.kwargs.items(), key=lambda item: is_fixed(item[1]))
    all_optional = all(is_fixed(place) for _, place in keywords)
    for index, place in enumerate(structure.args):
        hint = graph.inputs[place.index].name if isinstance(place, Ref) else f"argument_{index}"
        name = _free(identifier(hint, "x"), taken)
        found.append(Parameter(name, place, index > last and all_optional))
    found += [Parameter(name, place, is_fixed(place)) for name, place in keywords]
    return tuple(found)


def _free(name: str, taken: set[str]) -> str:
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def flatten_call(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The flat inputs of a call. Arguments that were captured by position may be named too, as the graph's module takes them.

    Raises:
        RunInputError: an argument is missing, unknown, nested differently, or not what was fixed at capture.
    """
    structure, count = graph.structure, len(graph.inputs)
    names: list[str] = []
    if not structure.kwargs.keys() >= kwargs.keys():
        names = _positional(graph)
        args, kwargs = _by_position(structure, names, args, kwargs)
    if len(args) > len(structure.args):
        raise RunInputError(f"got {len(args)} positional arguments, needs {len(structure.args)}")
    unknown = sorted(set(kwargs) - set(structure.kwargs))
    if twice := [name for name in unknown if name in names[: len(args)]]:
        raise RunInputError(f"got the arguments {twice} by position and by name")
    if unknown:
        raise RunInputError(f"got the keyword arguments {unknown}, needs {[*names, *sorted(structure.kwargs)]}")
    flat: list[Any] = [None] * count
    for index, place in enumerate(structure.args):
        if index < len(args):
            _fill(place, args[index], f"argument {index}", flat)
        elif not is_fixed(place):
            raise RunInputError(f"argument {index} is missing; {len(args)} of {len(structure.args)} positional arguments were given")
    for name, place in structure.kwargs.items():
        if name in kwargs:
            _fill(place, kwargs[name], f"argument '{name}'", flat)
        elif not is_fixed(place):
            raise RunInputError(f"keyword argument '{name}' is missing, needs {sorted(structure.kwargs)}")
    return flat


def _positional(graph: Graph) -> list[str]:
    """Names of the arguments that were captured by position; none where no Python function can have all the keywords."""
    try:
        return [parameter.name for parameter in parameters(graph, graph.structure)[: len(graph.structure.args)]]
    except LoweringError:
        return []


def _by_position(
    structure: CallStructure, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The call with named arguments at their positions, and what was fixed at capture in between; as it is where there is a gap."""
    last = max((index for index, name in enumerate(names) if name in kwargs), default=-1)
    placed, rest = list(args), dict(kwargs)
    for name, place in list(zip(names, structure.args, strict=False))[len(args) : last + 1]:
        if name not in rest and not is_fixed(place):
            break
        placed.append(rest.pop(name, place))
    return placed, rest


@runtime_checkable
class _PythonOutput(Protocol):
    """What capture remembers of the original output: its pytree spec and leaves."""

    @property
    def output(self) -> Any: ...

    @property
    def leaves(self) -> tuple[Attribute, ...]: ...


def restore_output(structure: CallStructure, outputs: Sequence[Any]) -> Any:
    """The flat outputs nested as the model returns them, in its own classes where this process captured it."""
    if isinstance(structure.python, _PythonOutput):
        from torch.utils import _pytree as pytree

        return pytree.tree_unflatten([_nest(leaf, outputs) for leaf in structure.python.leaves], structure.python.output)
    return _nest(structure.returns, outputs)


def _nest(place: Attribute, outputs: Sequence[Any]) -> Any:
    match place:
        case Ref():
            return outputs[place.index]
        case tuple():
            return tuple(_nest(item, outputs) for item in place)
        case list():
            return [_nest(item, outputs) for item in place]
        case Mapping():
            return {key: _nest(item, outputs) for key, item in place.items()}
        case _:
            return place


def _fill(place: Attribute, given: Any, where: str, flat: list[Any]) -> None:
    match place:
        case Ref():
            flat[place.index] = given
        case tuple() | list():
            if not isinstance(given, (tuple, list)) or len(given) != len(place):
                raise RunInputError(f"{where} is {_kind(given)}, needs a {type(place).__name__} of {len(place)}")
            for index, (inner, item) in enumerate(zip(place, given, strict=True)):
                _fill(inner, item, f"{where}[{index}]", flat)
        case Mapping():
            for key, inner in place.items():
                # a dataclass or ModelOutput of the original model has attributes where the structure has keys
                if isinstance(given, Mapping) and key in given:
                    item = given[key]
                elif not isinstance(given, Mapping) and hasattr(given, key):
                    item = getattr(given, key)
                else:
                    raise RunInputError(f"{where} is {_kind(given)} without '{key}', needs {list(place)}")
                _fill(inner, item, f"{where}[{key!r}]", flat)
        case _:
            if not same_literal(given, place):
                raise RunInputError(
                    f"{where} is {_kind(given)}, was fixed to {attribute_text(place)} at capture",
                    fix="capture the model with the value that you want to run",
                )


def same_literal(given: Any, fixed: Any) -> bool:
    """True when an argument is the literal that was fixed at capture; `1`, `1.0` and `True` differ."""
    return type(given) is type(fixed) and (given == fixed or (given != given and fixed != fixed))


def _kind(given: Any) -> str:
    if isinstance(given, (tuple, list)):
        return f"a {type(given).__name__} of {len(given)}"
    return repr(given) if isinstance(given, (bool, int, float, str, type(None))) else f"a {type(given).__name__}"
