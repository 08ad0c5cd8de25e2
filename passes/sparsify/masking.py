"""The frame of passes that set the least important weights to zero and leave the others as they are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.sparsify.apply import Sparsified, set_mask
from graphopt.passes.sparsify.layers import Layer, Scope, find_layers
from graphopt.passes.sparsify.patterns import Pattern, UnitPattern
from graphopt.passes.sparsify.ratios import ranked_together, shared_ratios
from graphopt.passes.sparsify.scores import WeightScores, calibration_of
from graphopt.passes.sparsify.sensitivity import sensitive_ratios
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["MaskingPass", "Sparsify", "scope_of"]


@dataclass(frozen=True)
class Sparsify(ContextPass):
    """Which layers become sparse."""

    numeric = NumericClass.LOSSY

    ratio: float = field(default=0.5, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction of weights that are zero afterwards"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to leave dense"})
    dense_ends: bool = field(default=True, metadata={"help": "leave the first and the last layer dense"})
    depthwise: bool = field(default=False, metadata={"help": "work on depthwise convolutions too"})

    def layers(self, graph: Graph, pattern: Pattern, *, ends_too: bool = False) -> tuple[list[Layer], Sparsified]:
        """The layers to work on, and what was left alone.

        Raises:
            PassOptionError: a name pattern means nothing, or nothing would be left of the weights.
        """
        if self.ratio == 1.0 and not self._keeps_some():
            raise PassOptionError("ratio is 1.0, which leaves no weight", fix="ratio is the fraction of zeros: 0.8 keeps a fifth")
        found, skipped = find_layers(graph, scope_of(self, ends_too=ends_too))
        done = Sparsified(skipped)
        fitting: list[Layer] = []
        for layer in found:
            reason = pattern.declines(layer)
            if reason is None:
                fitting.append(layer)
            else:
                done.skipped.append((layer.name, reason))
        return fitting, done

    def measured_ratios(
        self, graph: Graph, layers: Sequence[Layer], pattern: Pattern, score: WeightScores, context: Context, done: Sparsified
    ) -> dict[Layer, float]:
        """The ratio of each layer, by what zeros in it do to the outputs of the network.

        Raises:
            PassError: see `sensitive_ratios`.
        """
        calibration = calibration_of(context, 'ratios="sensitivity"', otherwise='share zeros out with ratios="scope"')
        options = {name: value for name, value in self.options().items() if name != "ratio"}
        finished = Finished(context, f"{self.name}-sensitivity", options, graph, calibration)
        ratios = sensitive_ratios(graph, layers, pattern, score, self.ratio, context, finished)
        done.notes += finished.notes
        return ratios

    def _keeps_some(self) -> bool:
        """True where a ratio of 1.0 does not mean that every weight goes."""
        return False


def scope_of(options: Sparsify, *, ends_too: bool = False) -> Scope:
    """The layers that options mean; `ends_too` leaves the ends to the sharing of ratios."""
    return Scope(options.only, options.exclude, options.dense_ends and not ends_too, options.depthwise)


@dataclass(frozen=True)
class MaskingPass(Sparsify):
    """Ratios for each layer, one ranking over all, or as measured."""

    scope: Literal["layer", "global", "erk", "uniform-plus"] = field(
        default="layer", metadata={"help": "how zeros are shared out: alike, by one ranking of all weights, or by the size of layers"}
    )
    ratios: Literal["scope", "sensitivity"] = field(
        default="scope", metadata={"help": "ratios of layers by `scope`, or by what each does to the outputs on calibration data"}
    )

    @abstractmethod
    def pattern(self) -> Pattern:
        """How the zeros are placed."""

    @abstractmethod
    def scores(self, graph: Graph, layers: Sequence[Layer], context: Context) -> WeightScores:
        """What the weights are ranked by."""

    def limit(self) -> float | None:
        """The root mean square of a unit's weights from which on it stays."""
        return None

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Choose and set the weights to zero.

        Raises:
            PassOptionError: a pattern of names means no layer, or nothing would be left.
            PassError: calibration data is needed and there is none.
        """
        pattern = self.pattern()
        layers, done = self.layers(rewriter.graph, pattern, ends_too=self.scope == "uniform-plus" and self.ratios == "scope")
        if not layers:
            return done.outcome()
        score = self.scores(rewriter.graph, layers, context)
        if self.ratios == "sensitivity":
            chosen = self.measured_ratios(rewriter.graph, layers, pattern, score, context, done)
        elif self.scope == "global":
            assert isinstance(pattern, UnitPattern), "one ranking is of units"
            for layer, goes in ranked_together(layers, pattern, score, self.ratio, self.limit()):
                set_mask(rewriter, layer, goes, pattern, done)
            return done.outcome()
        else:
            chosen = shared_ratios(layers, self.ratio, self.scope)
        for layer in layers:
            if chosen[layer] == 0:
                done.skipped.append((layer.name, f"it stays dense ({'sensitivity' if self.ratios == 'sensitivity' else self.scope})"))
                continue
            scores = score(layer)
            goes = pattern.goes(scores, layer, chosen[layer])
            set_mask(rewriter, layer, _limited(goes, scores, pattern, self.limit()), pattern, done)
        return done.outcome()


def _limited(goes: torch.Tensor, scores: torch.Tensor, pattern: Pattern, limit: float | None) -> torch.Tensor:
    """Without units whose mean square reaches the limit's."""
    if limit is None:
        return goes
    assert isinstance(pattern, UnitPattern), "a limit is one of units"
    matrix = scores.reshape(scores.shape[0], -1)
    small = pattern.unit_scores(matrix)[0] < limit * limit
    return goes & pattern.spread(small, *matrix.shape).reshape(goes.shape)
