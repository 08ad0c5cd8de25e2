"""Reads `executable.json`, believing nothing: every field is checked for type and range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from graphopt.errors import ArtifactError
from graphopt.ir.artifact import strict_json

__all__ = ["Document", "StepEntry", "parse_document"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class StepEntry:
    """A native step (`file`, and pairs of IR name and ONNX name), or a foreign one (`nodes`: position and reason)."""

    file: str | None
    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    symbols: tuple[tuple[str, str], ...] = ()
    nodes: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """What the file says."""

    options: Mapping[str, Any]
    states: Mapping[str, tuple[int, tuple[int, ...] | None]]
    steps: tuple[StepEntry, ...]


def parse_document(raw: bytes, folder: str) -> Document:
    """The checked content of the file.

    Raises:
        ArtifactError: a field is missing or of the wrong type.
    """

    def fail(what: str) -> NoReturn:
        raise ArtifactError(f"executable.json: {what}", where=folder)

    try:
        content = strict_json(raw)
    except ValueError as error:
        fail(f"no proper JSON: {error}")
    if not isinstance(content, dict) or content.get("format") != "graphopt-executable" or content.get("backend") != "onnxruntime":
        fail("not an executable of the backend onnxruntime")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= _VERSION:
        fail(f"version is {version!r}, this graphopt reads up to {_VERSION}")
    options, states, steps = content.get("options"), content.get("states"), content.get("steps")
    if not isinstance(options, dict) or not isinstance(states, dict) or not isinstance(steps, list):
        fail("'options', 'states' or 'steps' is missing or of the wrong type")
    try:
        return Document(options, {name: _place(entry) for name, entry in states.items()}, tuple(_step(entry) for entry in steps))
    except ValueError as error:
        fail(str(error))


def _place(entry: object) -> tuple[int, tuple[int, ...] | None]:
    match entry:
        case [int(offset), None]:
            return offset, None
        case [int(offset), [*axes]] if all(type(axis) is int for axis in axes):
            return offset, tuple(int(axis) for axis in axes)
        case _:
            raise ValueError(f"the place of a state is {str(entry)[:80]}, needs an offset and axes or null")


def _step(entry: object) -> StepEntry:
    match entry:
        case {"kind": "foreign", "nodes": [*nodes]}:
            return StepEntry(None, nodes=tuple(_node(node) for node in nodes))
        case {"kind": "native", "file": str(file), "inputs": [*inputs], "outputs": [*outputs], "symbols": [*symbols]}:
            return StepEntry(file, _pairs(inputs), _pairs(outputs), _pairs(symbols))
        case _:
            raise ValueError(f"a step is {str(entry)[:80]}, needs a kind and what belongs to it")


def _node(entry: object) -> tuple[int, str]:
    match entry:
        case [int(position), str(reason)] if type(position) is int:
            return position, reason
        case _:
            raise ValueError(f"a node of a step is {str(entry)[:80]}, needs its position and a reason")


def _pairs(entries: list[object]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for entry in entries:
        match entry:
            case [str(left), str(right)]:
                pairs.append((left, right))
            case _:
                raise ValueError(f"an input or output is {str(entry)[:80]}, needs two names")
    return tuple(pairs)
