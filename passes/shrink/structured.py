"""What the passes that take out units of axis groups have in common: options, schedule, and the record of each cut.

    analyse -> score -> select -> cut -> compensate      `steps` times, each time on what the last one left

Numeric class: lossy. Stage: training-safe; parameters get smaller under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

from graphopt.analysis.axes import axis_groups
from graphopt.analysis.table import counted
from graphopt.errors import PassOptionError
from graphopt.passes.shrink.compensation import compensate
from graphopt.passes.shrink.importance import score
from graphopt.passes.shrink.selection import Selection, select
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, weakened
from graphopt.rewrite.cut import CutRecord, cut
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Compensation", "Importance", "ShrinkGroups"]

Importance: TypeAlias = Literal["l1", "l2", "bn-scale", "taylor", "hessian", "activation", "geometric-median", "random"]
Compensation: TypeAlias = Literal["none", "bias", "least-squares"]

_VECTOR = 8
"""Floats of the narrowest vectors that runtimes lay channels out in (AVX2; ONNX Runtime's blocks have 8 or 16)."""

_LOSSES = frozenset({"taylor", "hessian"})
"""Methods whose scores estimate the change of the loss, whatever the group."""


@dataclass(frozen=True)
class ShrinkGroups(ContextPass):
    """Base of the passes that remove units: channels, neurons, heads, whatever `kinds` says."""

    numeric = NumericClass.LOSSY
    kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds of groups that the pass cuts; all where empty."""

    ratio: float = field(metadata={"help": "fraction of the units to remove, above 0 and below 1"})
    importance: Importance = field(default="l2", metadata={"help": "what makes a unit worth keeping"})
    ranking: Literal["local", "global", "isomorphic"] = field(
        default="local", metadata={"help": "units compete within their group, with all, or with groups of the same structure"}
    )
    multiple_of: int = field(default=1, metadata={"minimum": 1, "help": "widths stay multiples of this"})
    ratios: tuple[tuple[str, float], ...] = field(default=(), metadata={"help": "(name pattern, ratio) for groups that differ"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "name patterns of the groups to cut"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "name patterns of the groups to leave whole"})
    steps: int = field(default=1, metadata={"minimum": 1, "help": "number of cuts, with importance computed again before each"})
    compensation: Compensation = field(default="none", metadata={"help": "how the layers that read the units make up for them"})
    heads: Literal["whole", "inside"] = field(default="whole", metadata={"help": "take whole attention heads, or features inside each"})

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range.
        """
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise PassOptionError(
                f"option 'ratio' of {self.name} is {self.ratio}, needs a number above 0 and below 1",
                where=self.name,
                fix="it is the fraction of the units that is removed: 0.5 takes half of them",
            )
        for pattern, ratio in self.ratios:
            if not 0 <= ratio < 1:
                raise PassOptionError(
                    f"option 'ratios' of {self.name} has {ratio} for '{pattern}', needs a number of at least 0 and below 1",
                    where=self.name,
                    fix="it is the fraction of the units that is removed: 0 leaves the group whole",
                )

    def weaker(self, strength: float) -> ShrinkGroups:
        """The pass with smaller ratios, those of single groups too."""
        ratios = tuple((pattern, weakened(ratio, strength)) for pattern, ratio in self.ratios)
        return replace(self, ratio=weakened(self.ratio, strength), ratios=ratios)

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Cut `steps` times."""
        sizes: dict[str, int] = {}
        kinds: dict[str, str] = {}
        records: list[CutRecord] = []
        skipped: Sequence[tuple[str, str]] = ()
        notes: list[str] = []
        for step in range(1, self.steps + 1):
            groups = axis_groups(rewriter.graph, heads=self.heads)
            for group in groups:
                sizes.setdefault(group.name, group.size)
                kinds.setdefault(group.name, group.kind)
            scores = score(rewriter.graph, groups, self.importance, context, notes)
            removal, skipped = select(groups, scores, self._selection(step, sizes))
            if removal:
                before = rewriter.graph.clone()
                records.append(cut(rewriter, groups, removal))
                notes += compensate(rewriter, before, records[-1], context, self.compensation)
            if context.progress is not None:
                context.progress(f"{self.name}: cut {step} of {self.steps}", step / self.steps)
        removed = _removed(records)
        cuts = [f"{name}: {sizes[name]} -> {sizes[name] - count} {_units(kinds[name])}" for name, count in removed.items()]
        left = {name: sizes[name] - count for name, count in removed.items() if kinds[name] != "head"}
        if self.multiple_of % _VECTOR:
            notes += _odd_widths(sizes, left)
        return Outcome(sum(removed.values()), tuple((n, r) for n, r in skipped if n not in removed), (*cuts, *notes), tuple(records))

    def _selection(self, step: int, sizes: dict[str, int]) -> Selection:
        """What has to be gone after a step of the schedule: an equal part of the whole in each."""
        part = step / self.steps
        return Selection(
            self.ratio * part,
            self.ranking,
            self.multiple_of,
            tuple((pattern, ratio * part) for pattern, ratio in self.ratios),
            self.only,
            self.exclude,
            self.kinds,
            self.importance in _LOSSES,
            sizes,
        )


def _odd_widths(sizes: Mapping[str, int], left: Mapping[str, int]) -> list[str]:
    """A warning where widths that filled whole vectors do so no longer, which can cost more time than the cut saves."""
    odd = [name for name, width in left.items() if sizes[name] > _VECTOR and sizes[name] % _VECTOR == 0 and width % _VECTOR]
    if not odd:
        return []
    first = f"{odd[0]}: {left[odd[0]]}"
    were = f"was a multiple of {_VECTOR} and is" if len(odd) == 1 else f"were multiples of {_VECTOR} and are"
    return [
        f"{len(odd)} of {counted(len(left), 'width')} {were} no longer ({first}): runtimes compute in whole vectors, "
        f"so that this may be slower than before; multiple_of={_VECTOR} keeps {'it' if len(odd) == 1 else 'them'}"
    ]


def _removed(records: Sequence[CutRecord]) -> dict[str, int]:
    removed: dict[str, int] = {}
    for record in records:
        for name, (count, _) in record.groups.items():
            removed[name] = removed.get(name, 0) + count
    return removed


def _units(kind: str) -> str:
    return f"{kind}s" if kind != "embedding" else "embedding features"
