"""Finds passes and presets by name, through the entry point group `graphopt.passes`.

The library's own passes and a third party's come in through the same door. An entry point is

- a `Pass` class, whose `name` is the entry point's name, or
- a tuple of pipeline texts: a *preset*. A tuple inside it is a group that repeats until nothing fires.

Only the entry points that a pipeline names are imported.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeAlias

from graphopt.errors import PassError, PassOptionError, UnknownPassError
from graphopt.pipeline.options import make_pass
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.spec import RepeatSpec, Spec, parse_pipeline

__all__ = ["GROUP", "Item", "Registration", "Repeat", "Step", "available", "find", "plan", "preset_lines", "resolve"]

GROUP = "graphopt.passes"
"""Entry point group in which packages announce passes and presets."""

_MAX_DEPTH = 16
"""Deepest chain of presets that name presets."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Passes that run in order, again and again, until none of them fires or `rounds` are over."""

    steps: tuple[Step, ...]
    rounds: int = 10

    def __repr__(self) -> str:
        return f"repeat({', '.join(map(repr, self.steps))})"


Step: TypeAlias = "Pass | Repeat"
Item: TypeAlias = "str | Pass | Repeat | Sequence[Item]"
"""What a pipeline may be made of; a sequence inside a sequence repeats until nothing fires."""
Preset: TypeAlias = "tuple[str | Preset, ...]"


@dataclass(frozen=True, slots=True)
class Registration:
    """What an entry point announces: its name, the package, and how it is imported."""

    name: str
    package: str
    entry: EntryPoint

    def load(self) -> type[Pass] | Preset:
        """Import it.

        Raises:
            PassError: the import fails, or it is neither a pass class of that name nor a tuple of texts.
        """
        try:
            loaded = self.entry.load()
        except Exception as error:  # a foreign module may raise anything while it is imported
            raise PassError(
                f"entry point '{self.name}' of {self.package} can't be imported: {type(error).__name__}: {error}",
                where=self.entry.value,
                fix=f"repair or reinstall {self.package}",
            ) from error
        if isinstance(loaded, type) and issubclass(loaded, Pass):
            if getattr(loaded, "name", None) != self.name:
                raise PassError(
                    f"entry point '{self.name}' leads to the pass '{getattr(loaded, 'name', '?')}': the names differ",
                    where=self.entry.value,
                    fix=f"repair {self.package}: entry point and pass have one name",
                )
            return loaded
        if isinstance(loaded, tuple) and _is_preset(loaded):
            return loaded
        raise PassError(
            f"entry point '{self.name}' leads to {loaded!r}, needs a Pass class or a tuple of pipeline texts",
            where=self.entry.value,
            fix=f"repair or reinstall {self.package}",
        )


def available() -> Mapping[str, Registration]:
    """All passes and presets that installed packages announce, by name, sorted; nothing is imported."""
    return _scan(tuple(sys.path))


def find(name: str) -> type[Pass] | Preset:
    """The pass class or preset called `name`.

    Raises:
        UnknownPassError: there is none; the message lists near names.
        PassError: it can't be loaded.
    """
    known = available()
    if name in known:
        return known[name].load()
    near = difflib.get_close_matches(name, known, n=3)
    listed = ", ".join(known) or "none at all"
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownPassError(
        f"no pass or preset is called '{name}'",
        fix=f"{hint}known: {listed}; a pass that was just added shows up after its package is reinstalled (pip install -e .)",
    )


def plan(passes: Item) -> tuple[Step, ...]:
    """Steps for the pass manager from texts, pass objects, presets and sequences of them.

    Raises:
        UnknownPassError, PassOptionError, PassError: an item does not exist or does not fit.
    """
    if isinstance(passes, str | Pass | Repeat):
        return tuple(_expand(passes, ()))
    return tuple(step for item in passes for step in _expand(item, ()))


def resolve(passes: Item) -> list[Pass]:
    """The passes of a pipeline in order, each once: `resolve("fold-constants{max_bytes=1024}, remove-dead-nodes")`.

    Repeated groups are written out once; `plan` keeps them.

    Raises:
        UnknownPassError, PassOptionError, PassError: an item does not exist or does not fit.
    """
    return list(_flatten(plan(passes)))


def preset_lines(preset: Preset) -> list[str]:
    """A preset as pipeline text, an item per line; a tuple inside it reads `repeat(...)`."""
    return [item if isinstance(item, str) else f"repeat({', '.join(preset_lines(item))})" for item in preset]


def _flatten(steps: Iterable[Step]) -> Iterable[Pass]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _flatten(step.steps)
        else:
            yield step


def _expand(item: object, inside: tuple[str, ...]) -> Iterable[Step]:
    """Steps of one item; `inside` are the presets that led here."""
    if isinstance(item, Pass | Repeat):
        yield item
    elif isinstance(item, str):
        for spec in parse_pipeline(item):
            yield from _expand_spec(spec, inside)
    elif isinstance(item, list | tuple):
        steps = tuple(step for inner in item for step in _expand(inner, inside))
        if steps:
            yield Repeat(steps)
    else:
        hint = (
            "write it with brackets: Name()"
            if isinstance(item, type) and issubclass(item, Pass)
            else "use a name, a Pass object or a list of them"
        )
        raise PassError(f"a pipeline can't hold {item!r}", fix=hint)


def _expand_spec(spec: Spec | RepeatSpec, inside: tuple[str, ...]) -> Iterable[Step]:
    if isinstance(spec, RepeatSpec):
        yield Repeat(tuple(step for inner in spec.items for step in _expand_spec(inner, inside)))
        return
    found = find(spec.name)
    if isinstance(found, type):
        yield make_pass(found, spec.options)
        return
    if spec.options:
        raise PassOptionError(f"'{spec.name}' is a preset and has no options", where=str(spec), fix="write its passes out to set theirs")
    if spec.name in inside or len(inside) >= _MAX_DEPTH:
        raise PassError(
            f"preset '{spec.name}' contains itself: {' -> '.join((*inside, spec.name))}", fix="write its passes out in place of a preset"
        )
    for item in found:
        yield from _expand(item, (*inside, spec.name))


def _is_preset(value: tuple[object, ...]) -> bool:
    return all(isinstance(item, str) or (isinstance(item, tuple) and _is_preset(item)) for item in value)


@lru_cache(maxsize=4)
def _scan(_paths: tuple[str, ...]) -> Mapping[str, Registration]:
    """Entry points on the import path; the path is the key of the cache."""
    found: dict[str, Registration] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else "an unknown package"
        earlier = found.get(entry.name)
        if earlier is not None and earlier.package != package and earlier.entry.value != entry.value:
            raise PassError(
                f"two packages announce a pass called '{entry.name}': {earlier.package} and {package}",
                where=f"{earlier.entry.value} and {entry.value}",
                fix="uninstall or rename one of them",
            )
        found.setdefault(entry.name, Registration(entry.name, package, entry))  # the first on the path, as for imports
    return found
