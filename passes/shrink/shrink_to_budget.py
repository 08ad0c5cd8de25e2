"""Take out units until a network fits a budget: each group gets the width that reaches the goals at the least error.

    shrink-to-budget{flops=0.5}              half of the FLOPs remain
    shrink-to-budget{latency=0.6, target="onnxruntime", threads=4}      0.6 of the time, measured there

Goals are what *remains*, as fractions of the original: FLOPs, parameters, peak memory of activations, latency. The pass
measures how much the output changes when each group alone gets narrower, on calibration data, then searches
(`graphopt.passes.shrink.budgets`), cuts, and looks at the network that was cut: where it misses a goal the search is
repeated with a lower one. Time is measured on the target backend and never estimated from FLOPs; widths that are
not faster are not used, and a network that is not faster in the end is not kept. docs/budgets.md has examples.

Numeric class: lossy. Stage: training-safe; parameters get smaller under their own names. The same data, seed and
measured times give the same network. Source: greedy choice by sensitivity per saving as in Yang et al., NetAdapt (ECCV
2018), with all widths of all groups in one search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from graphopt.analysis.axes import axis_groups
from graphopt.errors import PassError, PassOptionError
from graphopt.passes.shrink.budgets.plan import Planner, Settings
from graphopt.passes.shrink.compensation import compensate
from graphopt.passes.shrink.structured import Compensation, Importance
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, weakened
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["ShrinkToBudget"]

_GOAL = {"minimum": 0.0, "maximum": 1.0}


@dataclass(frozen=True)
class ShrinkToBudget(ContextPass):
    """Remove units until FLOPs, parameters, memory or measured latency fit; which ones is measured on data."""

    name = "shrink-to-budget"
    numeric = NumericClass.LOSSY

    flops: float | None = field(default=None, metadata={**_GOAL, "help": "fraction of the FLOPs that remains"})
    parameters: float | None = field(default=None, metadata={**_GOAL, "help": "fraction of the parameters that remains"})
    memory: float | None = field(default=None, metadata={**_GOAL, "help": "fraction of the peak bytes of activations that remains"})
    latency: float | None = field(
        default=None, metadata={**_GOAL, "help": "fraction of the time of one run that remains, measured on target"}
    )
    target: Literal["onnxruntime", "cpu", "torch"] = field(default="onnxruntime", metadata={"help": "backend that latency is measured on"})
    threads: int = field(default=1, metadata={"minimum": 1, "help": "threads that latency is measured with"})
    importance: Importance = field(default="l2", metadata={"help": "which units of a group go first"})
    sensitivity: Literal["output", "metric"] = field(
        default="output", metadata={"help": "what a cut costs: squared error of the outputs, or fall of the metric"}
    )
    samples: int = field(default=64, metadata={"minimum": 1, "help": "calibration samples that output errors are measured on"})
    points: int = field(default=3, metadata={"minimum": 1, "maximum": 16, "help": "widths of each group that are measured"})
    multiple_of: int = field(default=8, metadata={"minimum": 1, "help": "widths stay multiples of this"})
    least: float = field(default=0.1, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction of each group that stays at least"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "name patterns of the groups to cut"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "name patterns of the groups to leave whole"})
    heads: Literal["whole", "inside"] = field(default="whole", metadata={"help": "take whole attention heads, or features inside each"})
    compensation: Compensation = field(default="none", metadata={"help": "how the layers that read the units make up for them"})

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: no goal, a goal that is not in (0, 1], or an option of the wrong type or range.
        """
        super().__post_init__()
        if not self.goals():
            raise PassOptionError(
                f"{self.name} has no goal", where=self.name, fix="set flops, parameters, memory or latency, such as flops=0.5: half remains"
            )
        for name, goal in self.goals().items():
            if goal == 0:
                raise PassOptionError(
                    f"option '{name}' of {self.name} is 0, needs a number above 0 and at most 1",
                    where=self.name,
                    fix="it is the fraction that remains: 0.5 keeps half",
                )

    def goals(self) -> Mapping[str, float]:
        """The goals that are set, by name."""
        found = {"flops": self.flops, "parameters": self.parameters, "memory": self.memory, "latency": self.latency}
        return {name: goal for name, goal in found.items() if goal is not None}

    def weaker(self, strength: float) -> ShrinkToBudget:
        """The pass with goals nearer to 1: `latency=0.6` takes 0.4 away, at half the strength 0.2."""
        goals: dict[str, Any] = {name: round(1.0 - weakened(1.0 - goal, strength), 6) for name, goal in self.goals().items()}
        return replace(self, **goals)

    def settings(self) -> Settings:
        """What the planner goes by."""
        names = (entry.name for entry in fields(Settings) if entry.name != "goals")
        return Settings(goals=self.goals(), **{name: getattr(self, name) for name in names})

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Measure, search, cut, and look at the result.

        Raises:
            PassError: there is no calibration data, or no widths reach the goals; the message says what is reachable.
        """
        if context.calibration is None or not len(context.calibration):
            raise PassError(
                f"{self.name} measures on data and has none", where=repr(self), fix="pass calibration=, a DataLoader or a list of batches"
            )
        if self.sensitivity == "metric" and context.metric is None:
            raise PassError(f'{self.name} has sensitivity="metric" and no metric', where=repr(self), fix="pass metric=")
        graph = rewriter.graph
        groups = axis_groups(graph, heads=self.heads)
        plan = Planner(self.settings(), graph, groups, context, context.calibration).run()
        if not plan.removal:
            return Outcome(0, plan.skipped, plan.notes)
        before = graph.clone()
        record = cut(rewriter, groups, plan.removal)
        notes = compensate(rewriter, before, record, context, self.compensation)
        removed = sum(int(gone.sum()) for gone in plan.removal.values())
        return Outcome(removed, plan.skipped, (*plan.notes, *notes), (record,))
