"""What a pass is: a frozen dataclass that turns one graph into another and says how far it may change numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from enum import Enum
from typing import Any, ClassVar

from graphopt.ir.attributes import attribute_text, freeze_attribute
from graphopt.ir.graph import Graph
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import check_options
from graphopt.rewrite.cut import CutRecord
from graphopt.rewrite.driver import drive
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import Rule

__all__ = ["ContextPass", "NumericClass", "Outcome", "Pass", "PassResult", "RulePass", "Stage", "weakened"]


class NumericClass(Enum):
    """How far a pass may change the numbers of a graph; what the pass manager checks."""

    EXACT = "exact"
    """Bit-identical results."""
    ROUNDING = "rounding"
    """The same algebra with floating-point operations reordered: equal to 1e-9 in float64."""
    LOSSY = "lossy"
    """Another function: needs a quality budget."""


class Stage(Enum):
    """What the graph is good for after the pass."""

    TRAINING_SAFE = "training-safe"
    """Batch norms, dropout and parameters still train as before."""
    DEPLOY = "deploy"
    """Inference only: train mode would compute something else than before."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `apply` did: how many places it rewrote, and which it left alone and why (node name, reason).

    `shrinks` are the cuts that it made, in order, for replaying them on another checkpoint.
    """

    rewritten: int
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    shrinks: tuple[CutRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class PassResult:
    """The graph after a pass (the same object, edited in place), and what the pass did."""

    graph: Graph
    rewritten: int
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. A subclass is a frozen dataclass whose fields are its options.

    `name` is a verb and a noun (`fold-batch-norm`). `repr` is what a pipeline text would say:
    `fold-constants{max_bytes=1048576}`.
    """

    name: ClassVar[str]
    numeric: ClassVar[NumericClass]
    stage: ClassVar[Stage] = Stage.TRAINING_SAFE
    consumes: ClassVar[frozenset[str]] = frozenset()
    """Ops that the pass removes from a graph, as folding does with `batch_norm`."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Ops that the pass works on and that no deploy pass before it may have consumed."""

    def __post_init__(self) -> None:
        """Check the options against their annotations and ranges; see `graphopt.pipeline.options`.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range.
        """
        check_options(self)

    def __init_subclass__(cls) -> None:
        """Keep `repr` as the pipeline text, whatever `@dataclass` on the subclass would make of it."""
        super().__init_subclass__()
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Pass.__repr__

    @abstractmethod
    def apply(self, rewriter: Rewriter) -> Outcome:
        """Edit `rewriter.graph` and say what was done."""

    def run(self, graph: Graph) -> PassResult:
        """Apply the pass alone to a graph, in place. The pass manager adds verification and checks."""
        outcome = self.apply(Rewriter(graph))
        return PassResult(graph, outcome.rewritten, outcome.skipped, outcome.notes)

    def weaker(self, strength: float) -> Pass | None:
        """The pass with a fraction of its strength, 0 < strength < 1; None where no option says how strong it is.

        Here that is the option `ratio`. A pass in which others count, or take its place, overrides this.
        """
        ratio = getattr(self, "ratio", None)
        if not isinstance(ratio, float) or all(field.name != "ratio" for field in fields(self)):
            return None
        options: dict[str, Any] = {"ratio": weakened(ratio, strength)}
        return replace(self, **options)

    def options(self) -> dict[str, Any]:
        """The options and their values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def changed_options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != _default(field)}

    def __repr__(self) -> str:
        options = [f"{name}={attribute_text(freeze_attribute(value))}" for name, value in self.changed_options().items()]
        return f"{self.name}{{{', '.join(options)}}}" if options else self.name


def weakened(amount: float, strength: float) -> float:
    """A fraction of an option, to four digits."""
    return float(f"{amount * strength:.4g}")


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that applies local rules until none fires any more."""

    rules: ClassVar[Sequence[Rule[Any]]]

    def active_rules(self) -> Sequence[Rule[Any]]:
        """The rules of this instance; override it where options take part in them."""
        return self.rules

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Run the rules to a fixed point."""
        tally = drive(rewriter, self.active_rules())
        return Outcome(tally.rewritten, tally.skipped)


@dataclass(frozen=True)
class ContextPass(Pass):
    """A pass that may look at the user's data, metric or budget, as lossy ones do; without any it does what it can."""

    @abstractmethod
    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Edit `rewriter.graph` and say what was done."""

    def apply(self, rewriter: Rewriter) -> Outcome:
        """The same without data, metric and budget."""
        return self.apply_with(rewriter, Context())
