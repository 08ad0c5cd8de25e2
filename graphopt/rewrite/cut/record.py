"""What a shrink took out, as data that can be stored and applied to another checkpoint of the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.errors import ArtifactError, ParseError
from graphopt.ir.attributes import Attribute, attribute_text
from graphopt.ir.literals import parse_attributes

__all__ = ["FORMAT", "VERSION", "AxisCut", "CutRecord", "PartRecord", "load_records", "save_records"]

FORMAT = "graphopt-cuts"
VERSION = 2
"""Files without parts are written as version 1, which older versions of graphopt read too."""

_FIX = "give the file that `result.save_shrinks` or `--save-shrink` wrote"

AxisCut: TypeAlias = "tuple[int, tuple[int, ...]]"
"""An axis, and the positions of it that are kept, rising."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part of a graph that was taken out, by the names of values: what read `exit` reads `entry`."""

    name: str
    entry: str
    exit: str


@dataclass(frozen=True)
class CutRecord:
    """One cut of one graph.

    - `states`: for each state that lost positions: its axes and what is kept of them, by rising axis.
    - `shapes`: the shape that each of these states had before.
    - `attributes`: by node name, the attributes that changed and their new values.
    - `groups`: for each group that lost units: how many of how many.
    - `parts`: blocks and layers that were taken out, in order, before anything else of the record.
    """

    states: Mapping[str, tuple[AxisCut, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    attributes: Mapping[str, Mapping[str, Attribute]]
    groups: Mapping[str, tuple[int, int]]
    parts: tuple[PartRecord, ...] = ()

    @staticmethod
    def of_parts(parts: Sequence[PartRecord]) -> CutRecord:
        """The record of a pass that takes out whole blocks or layers."""
        return CutRecord({}, {}, {}, {}, tuple(parts))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; attributes are in the words of IR text."""
        found: dict[str, Any] = {
            "states": {
                name: {"shape": list(self.shapes[name]), "kept": {str(axis): list(kept) for axis, kept in axes}}
                for name, axes in self.states.items()
            },
            "attributes": {
                node: {name: attribute_text(value) for name, value in attributes.items()} for node, attributes in self.attributes.items()
            },
            "groups": {name: list(counts) for name, counts in self.groups.items()},
        }
        if self.parts:
            found["parts"] = [{"name": part.name, "entry": part.entry, "exit": part.exit} for part in self.parts]
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CutRecord:
        """The record that `to_json` wrote.

        Raises:
            ArtifactError: the data is not what `to_json` writes.
        """
        try:
            return CutRecord(
                {
                    name: tuple((int(axis), _positions(kept)) for axis, kept in state["kept"].items())
                    for name, state in data["states"].items()
                },
                {name: tuple(int(size) for size in state["shape"]) for name, state in data["states"].items()},
                {
                    node: {name: parse_attributes(f"{{value={text}}}")[0]["value"] for name, text in attributes.items()}
                    for node, attributes in data["attributes"].items()
                },
                {name: (int(removed), int(size)) for name, (removed, size) in data["groups"].items()},
                tuple(PartRecord(str(part["name"]), str(part["entry"]), str(part["exit"])) for part in data.get("parts", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ParseError) as error:
            raise ArtifactError(f"this is no record of a cut: {type(error).__name__}: {error}") from error


def save_records(records: Sequence[CutRecord], path: str | Path) -> None:
    """Write cuts, in the order in which they were made, as one JSON file; folders above it are made, as for a graph.

    Raises:
        ArtifactError: the file can't be written.
    """
    version = VERSION if any(record.parts for record in records) else 1
    document = {"format": FORMAT, "version": version, "cuts": [record.to_json() for record in records]}
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{path} can't be written: {error.strerror}", fix="name a file in a folder where you may write") from error


def load_records(path: str | Path) -> tuple[CutRecord, ...]:
    """The cuts of a file that `save_records` wrote.

    Raises:
        ArtifactError: there is no such file, it is damaged, or of a newer version.
    """
    where = str(path)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{where} can't be read: {error.strerror}", fix=_FIX) from error
    except ValueError as error:
        raise ArtifactError(f"{where} is no JSON: {error}", fix=_FIX) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("cuts"), list):
        raise ArtifactError(f"{where} holds no record of cuts", fix=_FIX)
    if document.get("version") not in range(1, VERSION + 1):
        raise ArtifactError(
            f"{where} is of version {document.get('version')}, this graphopt reads 1 to {VERSION}", fix="use a newer graphopt"
        )
    try:
        return tuple(CutRecord.from_json(record) for record in document["cuts"])
    except ArtifactError as error:
        raise ArtifactError(f"{where} is damaged: {error.what}", fix=f"write it again: {_FIX}") from error


def _positions(kept: Sequence[Any]) -> tuple[int, ...]:
    positions = tuple(int(position) for position in kept)
    if not positions or positions[0] < 0 or any(low >= high for low, high in pairwise(positions)):
        raise ValueError(f"kept positions {list(positions)[:8]} do not rise")
    return positions
