"""Name patterns: which groups "layer4.*" means.

A pattern (as of `fnmatch`: `*`, `?`, `[...]`) means the groups with that name and those whose units a layer with that
name computes: `exclude=("layer4.1.conv2",)` keeps all outputs of that layer, and with them whatever is added to them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Role
from graphopt.errors import PassOptionError

__all__ = ["GroupNames", "layer_of"]


def layer_of(state_name: str) -> str:
    """`layer1.0.conv1` of `layer1.0.conv1.weight`."""
    return state_name.rpartition(".")[0] or state_name


class GroupNames:
    """The names under which the groups of a graph are known."""

    def __init__(self, groups: AxisGroups) -> None:
        self._names: Mapping[AxisGroup, tuple[str, ...]] = {group: tuple(_names(group)) for group in groups}
        self._fixed: dict[str, str] = {}
        for fixed in groups.fixed:
            self._fixed.setdefault(layer_of(fixed.value.name), fixed.reason)

    def matches(self, group: AxisGroup, pattern: str) -> bool:
        """True when the pattern means the group."""
        return any(fnmatchcase(name, pattern) for name in self._names[group])

    def first_match(self, group: AxisGroup, patterns: Iterable[str]) -> str | None:
        """The first of the patterns that means the group."""
        return next((pattern for pattern in patterns if self.matches(group, pattern)), None)

    def check(self, option: str, patterns: Iterable[str], *, fixed_too: bool = False) -> None:
        """Refuse patterns that mean nothing. With `fixed_too` a layer that can't be cut anyway counts as something.

        Raises:
            PassOptionError: with near names, or why the layer of that name can't be cut.
        """
        for pattern in patterns:
            if any(self.matches(group, pattern) for group in self._names):
                continue
            fixed = next(((name, reason) for name, reason in self._fixed.items() if fnmatchcase(name, pattern)), None)
            if fixed is None:
                raise PassOptionError(f"'{pattern}' in {option} is the name of no layer and no group", fix=self._near(pattern))
            if not fixed_too:
                raise PassOptionError(
                    f"'{pattern}' in {option} means only layers that can't be cut: {fixed[0]}: {fixed[1]}", fix=f"leave it out of {option}"
                )

    def _near(self, pattern: str) -> str:
        known = list(dict.fromkeys([*(name for names in self._names.values() for name in names), *self._fixed]))
        near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
        return f'near names: {", ".join(near)}; * stands for anything, as in "layer4.*"' if near else "the graph has nothing to cut"


def _names(group: AxisGroup) -> Iterable[str]:
    names = {group.name: None}
    for member in group.members:
        if member.role is Role.WRITTEN:
            names[layer_of(member.value.name)] = None
    return names
