"""The frame of the document that the folders of emitting backends hold: options, machine, and choices by sizes."""

from __future__ import annotations

from typing import Any

from graphopt.ir.artifact import ArtifactReader, strict_json

__all__ = ["read_frame"]


def read_frame(reader: ArtifactReader, name: str, backend: str, version: int, most_bytes: int) -> tuple[Any, Any, list[Any]]:
    """`options` and `machine`, two mappings, and the list `choices`, whose entries are not checked yet.

    Raises:
        ArtifactError: it is no JSON, of another backend or a later version, or a field is missing or of the wrong type.
    """
    try:
        content = strict_json(reader.read(name, most_bytes))
    except ValueError as error:
        raise reader.error(name, f"no proper JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != "graphopt-executable" or content.get("backend") != backend:
        raise reader.error(name, f"not an executable of the backend {backend}")
    found = content.get("version")
    if type(found) is not int or not 1 <= found <= version:
        raise reader.error(name, f"version is {found!r}, this graphopt reads up to {version}", "update graphopt")
    match content:
        case {"options": dict(options), "machine": dict(machine), "choices": [*choices]}:
            return options, machine, choices
        case _:
            raise reader.error(name, "'options', 'machine' or 'choices' is missing or of the wrong type")
