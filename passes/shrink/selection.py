"""Which units go: scores and wishes in, a removal and reasons out.

    group layer1.0.conv1: 64 units, ratio 0.5, multiple_of 24    ->  the 40 of least importance go, 24 stay

*local* takes the same share out of each group. *global* takes the least important units wherever they are, after the
scores of each group are divided by their mean: magnitudes of different layers can't be compared otherwise. Estimates of
the change of a loss can, and are taken as they are.
*isomorphic* does so among groups of the same structure only, so that each kind of group keeps its share
(Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Literal, TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Fixed, Member, Removal, Role
from graphopt.analysis.table import counted
from graphopt.errors import PassOptionError
from graphopt.ops import family
from graphopt.passes.shrink.names import GroupNames

__all__ = ["Ranking", "Scores", "Selection", "nothing_to_cut", "select", "structure_of", "width_step"]

Ranking: TypeAlias = Literal["local", "global", "isomorphic"]
Scores: TypeAlias = "Mapping[AxisGroup, NDArray[numpy.float64]]"
"""Importance of each unit of a group; higher is kept longer."""
Skipped: TypeAlias = "tuple[tuple[str, str], ...]"
"""(name of a group or parameter, why it was left alone)."""


@dataclass(frozen=True)
class Selection:
    """What a user wants to go.

    - `ratio`: the fraction of units to remove, 0 < ratio < 1; `ratios` says another for groups by pattern, the first
      that matches counts and 0 leaves them whole. Groups with a ratio of their own are ranked by themselves.
    - `multiple_of`: widths (positions of the axes of weights) stay multiples of it.
    - `only`, `exclude`: patterns over names, see `graphopt.passes.shrink.names`.
    - `kinds`: the kinds of groups to cut, all where empty.
    - `comparable`: scores of different groups are in one unit, and are ranked together without dividing by means.
    - `sizes`: by group name, the number of units that the ratio is a fraction of, where it is not the present one:
      in a schedule of several cuts, that before the first.
    """

    ratio: float
    ranking: Ranking = "local"
    multiple_of: int = 1
    ratios: tuple[tuple[str, float], ...] = ()
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    comparable: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class _Target:
    """A group that is to be cut: from how many units its ratio counts, and the step of what it may keep."""

    group: AxisGroup
    ratio: float
    original: int
    step: int
    own: bool

    def keep(self, wanted: float) -> int:
        """The number of units to keep that is nearest to a wish and has the right width; at least one step."""
        lower = int(wanted / self.step + 1e-9) * self.step
        nearest = lower + self.step if wanted - lower >= self.step / 2 - 1e-9 and wanted > lower + 1e-9 else lower
        return min(max(nearest, self.step), self.group.size)


def select(groups: AxisGroups, scores: Scores, selection: Selection) -> tuple[Removal, Skipped]:
    """The units to remove, and for each group that stays whole and each fixed axis (but windows of kernels) the reason.

    Raises:
        PassOptionError: a pattern means nothing, or nothing is left to cut; not in a schedule that has begun, whose
            first cuts may leave too little for the others.
    """
    targets, skipped = _targets(groups, selection)
    removal: dict[AxisGroup, NDArray[numpy.bool_]] = {}
    for ranked in _ranked_together(targets, selection.ranking):
        counts = _kept_counts(ranked, scores, comparable=selection.comparable)
        for target, count in zip(ranked, counts, strict=True):
            gone = target.group.size - count
            if gone > 0:
                removal[target.group] = _lowest(scores[target.group], gone)
            elif target.original == target.group.size:
                skipped.append((target.group.name, _stays_whole(target, alone=len(ranked) == 1)))
    fixed = ((f"{entry.value.name} axis {entry.axis}", entry.reason) for entry in groups.fixed if not _is_window(entry))
    return removal, (*skipped, *fixed)


def _is_window(fixed: Fixed) -> bool:
    """The spatial axes of a kernel, which nobody expects to lose channels."""
    return fixed.axis >= 2 and any(user.op in family("conv") for user in fixed.value.users)


def width_step(group: AxisGroup, multiple_of: int) -> int:
    """The number of units whose removal keeps the widths of all weights multiples of `multiple_of`.

    A unit may have several positions on an axis: with 64 features a head, any number of heads is a multiple of 8 wide.
    """
    widths = [_positions_per_unit(member) for member in group.members if member.role in (Role.WRITTEN, Role.READ)]
    return lcm(*(multiple_of // gcd(multiple_of, width) for width in widths)) if widths else multiple_of


def structure_of(group: AxisGroup) -> tuple[object, ...]:
    """Equal for groups that are coupled in the same way: by the same kinds of layers on the same axes, whatever their sizes."""
    return (group.kind, *(_place(member) for member in group.members))


def _place(member: Member) -> tuple[object, ...]:
    value = member.value
    op = value.producer.op if value.producer is not None else "+".join(sorted({user.op for user in value.users}))
    return member.role.value, op, member.axis, len(value.shape)


def _positions_per_unit(member: Member) -> int:
    owned = member.units[member.units >= 0]
    return int(numpy.bincount(owned).max()) if owned.size else 1


def _targets(groups: AxisGroups, selection: Selection) -> tuple[list[_Target], list[tuple[str, str]]]:
    names = GroupNames(groups)
    begun = _has_begun(groups, selection)
    if not begun:  # what a pattern means may have been cut down to one unit
        names.check("only", selection.only)
        names.check("exclude", selection.exclude, fixed_too=True)
        names.check("ratios", (pattern for pattern, _ in selection.ratios))
    targets: list[_Target] = []
    skipped: list[tuple[str, str]] = []
    ratios = dict(reversed(selection.ratios))
    of_kind = 0
    for group in groups:
        excluded = names.first_match(group, selection.exclude)
        pattern = names.first_match(group, (pattern for pattern, _ in selection.ratios))
        ratio = selection.ratio if pattern is None else ratios[pattern]
        step = width_step(group, selection.multiple_of)
        reason = ""
        if selection.kinds and group.kind not in selection.kinds:
            reason = f"its units are {group.kind} units, not {' or '.join(sorted(selection.kinds))}"
        elif selection.only and names.first_match(group, selection.only) is None:
            reason = f"it is not among only={selection.only}"
        elif excluded is not None:
            reason = f"excluded by '{excluded}'"
        elif ratio == 0:
            reason = f"ratio 0 by '{pattern}'"
        elif group.size < 2:
            reason = "it has one unit"
        elif group.size <= step > 1:
            reason = f"it has {group.size} units, which multiple_of={selection.multiple_of} takes in steps of {step}"
        of_kind += not selection.kinds or group.kind in selection.kinds
        if reason:
            skipped.append((group.name, reason))
        else:
            targets.append(_Target(group, ratio, selection.sizes.get(group.name, group.size), step, pattern is not None))
    if not targets and not begun:
        raise _nothing_left(groups, selection, of_kind, skipped)
    return targets, skipped


def _has_begun(groups: AxisGroups, selection: Selection) -> bool:
    """True when groups are smaller than at the start of the schedule; those of one unit are groups no more."""
    present = {group.name: group.size for group in groups}
    return any(present.get(name, 1) != size for name, size in selection.sizes.items())


def nothing_to_cut(groups: AxisGroups) -> PassOptionError:
    """The error for a graph in which all axes have to stay as they are."""
    first = f", for example {groups.fixed[0].value.name} axis {groups.fixed[0].axis}: {groups.fixed[0].reason}" if groups.fixed else ""
    return PassOptionError(f"the graph has no groups of units that can be cut{first}", fix="graphopt show --groups lists the reasons")


def _nothing_left(groups: AxisGroups, selection: Selection, of_kind: int, skipped: Sequence[tuple[str, str]]) -> PassOptionError:
    others = sorted({group.kind for group in groups})
    if not of_kind and others:
        wanted = " or ".join(sorted(selection.kinds))
        return PassOptionError(
            f"the graph has no groups of {wanted} units that can be cut, only of {' and '.join(others)} units",
            fix="shrink-channels takes units of all kinds; graphopt show --groups lists them, and what can't be cut with the reason",
        )
    if not of_kind:
        return nothing_to_cut(groups)
    name, reason = skipped[-1]
    wide = any("multiple_of" in reason for _, reason in skipped)
    return PassOptionError(
        f"nothing is left to cut of {counted(of_kind, 'group')}, for example {name}: {reason}",
        fix=f"exclude less, {'lower multiple_of, ' if wide else ''}or name other groups in only",
    )


def _ranked_together(targets: Sequence[_Target], ranking: Ranking) -> Iterable[list[_Target]]:
    classes: dict[object, list[_Target]] = {}
    for number, target in enumerate(targets):
        alone = ranking == "local" or target.own
        key: object = number if alone else structure_of(target.group) if ranking == "isomorphic" else "all"
        classes.setdefault(key, []).append(target)
    return classes.values()


def _kept_counts(targets: Sequence[_Target], scores: Scores, *, comparable: bool) -> list[int]:
    """How many units each of the groups keeps that are ranked together."""
    wanted = [target.original * (1 - target.ratio) for target in targets]
    if len(targets) > 1:
        numbers = [scores[target.group] if comparable else _relative(scores[target.group]) for target in targets]
        wanted = _share(numbers, round(sum(wanted)))
    return [target.keep(wish) for target, wish in zip(targets, wanted, strict=True)]


def _share(numbers: Sequence[NDArray[numpy.float64]], total: int) -> list[float]:
    """Of the `total` most important units of all groups: how many are in each."""
    owner = numpy.repeat(numpy.arange(len(numbers)), [len(part) for part in numbers])
    best = numpy.argsort(-numpy.concatenate(numbers), kind="stable")[:total]
    return [float(count) for count in numpy.bincount(owner[best], minlength=len(numbers))]


def _relative(scores: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    mean = float(numpy.abs(scores).mean())
    return scores / mean if mean > 0 else scores


def _lowest(scores: NDArray[numpy.float64], count: int) -> NDArray[numpy.bool_]:
    gone = numpy.zeros(len(scores), dtype=bool)
    gone[numpy.argsort(scores, kind="stable")[:count]] = True
    return gone


def _stays_whole(target: _Target, *, alone: bool) -> str:
    """Why nothing of a group goes; `alone` where it is ranked by itself."""
    if not alone and target.step > 1:
        return f"no more than half a step of {target.step} of its units are less important than those of other groups"
    if not alone:
        return "all of its units are more important than those of other groups"
    what = f"ratio {target.ratio:g} of {target.group.size} units"
    return f"{what} takes no more than half a step of {target.step}" if target.step > 1 else f"{what} is no more than half a unit"
