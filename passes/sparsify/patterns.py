"""Patterns of zeros: which weights go together, and what the type says about them.

    Unstructured()          each weight by itself
    Blocks(4, 1)            4 output channels x 1 number of the rest (inputs, then taps), as `Sparsity` has it
    NOfM(2, 4)              of every 4 consecutive inputs, 2 stay; for each output channel and tap by itself

Scores are per weight, float64, and higher is more important; a unit has the mean of its weights' scores.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import lcm

import torch

from graphopt.analysis.sparsity import block_ratio
from graphopt.errors import PassOptionError
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.passes.sparsify.layers import Layer

__all__ = [
    "Blocks",
    "NOfM",
    "Pattern",
    "UnitPattern",
    "Unstructured",
    "column_block",
    "from_matrix",
    "lowest",
    "parse_pattern",
    "to_matrix",
]


class Pattern(ABC):
    """How zeros are placed."""

    @abstractmethod
    def declines(self, layer: Layer) -> str | None:
        """Why a layer can't have the pattern; None where it can."""

    @abstractmethod
    def goes(self, scores: torch.Tensor, layer: Layer, ratio: float) -> torch.Tensor:
        """A mask of the weight's shape: the weights of least importance, `ratio` of all, to the nearest unit."""

    @abstractmethod
    def annotation(self, numbers: torch.Tensor, layer: Layer) -> Sparsity:
        """What is true of numbers that were made sparse with this pattern."""

    def columns(self) -> int:
        """How many columns of `to_matrix` are decided together."""
        return 1


class UnitPattern(Pattern):
    """Patterns of units of any number that may go."""

    @abstractmethod
    def unit_scores(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For a matrix [outputs, columns]: the score and the number of weights of each unit, [rows of units, columns of units]."""

    @abstractmethod
    def spread(self, units: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """From a mask over units to one over [height, width] weights."""

    def goes(self, scores: torch.Tensor, layer: Layer, ratio: float) -> torch.Tensor:
        """See `Pattern`."""
        matrix = scores.reshape(scores.shape[0], -1)
        units, sizes = self.unit_scores(matrix)
        chosen = lowest(units.flatten(), sizes.flatten(), ratio).reshape(units.shape)
        return self.spread(chosen, *matrix.shape).reshape(scores.shape)


@dataclass(frozen=True, slots=True)
class Unstructured(UnitPattern):
    """Each weight by itself."""

    def declines(self, layer: Layer) -> str | None:
        """See `Pattern`."""
        return None

    def unit_scores(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `UnitPattern`."""
        return scores, torch.ones_like(scores, dtype=torch.int64)

    def spread(self, units: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `UnitPattern`."""
        return units

    def annotation(self, numbers: torch.Tensor, layer: Layer) -> Sparsity:
        """See `Pattern`."""
        return Sparsity(SparsityPattern.UNSTRUCTURED, _zeros(numbers))


@dataclass(frozen=True, slots=True)
class Blocks(UnitPattern):
    """`rows` output channels x `width` consecutive numbers of the rest flattened: inputs of a linear layer or a 1x1
    convolution, inputs and taps of others. Blocks at the ends may be smaller."""

    rows: int
    width: int

    def declines(self, layer: Layer) -> str | None:
        """See `Pattern`."""
        if layer.transposed:
            return "blocks go along output channels on axis 0, a transposed convolution has inputs there"
        if layer.groups > 1 and layer.outputs % self.rows:
            return f"blocks of {self.rows} output channels do not fit into the {layer.outputs} of a group"
        return None

    def unit_scores(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `UnitPattern`."""
        sums, counts = self._sums(scores), self._sums(torch.ones_like(scores))
        return sums / counts, counts.long()

    def _sums(self, matrix: torch.Tensor) -> torch.Tensor:
        height, width = matrix.shape
        padded = torch.nn.functional.pad(matrix, (0, -width % self.width, 0, -height % self.rows))
        return padded.reshape(padded.shape[0] // self.rows, self.rows, -1, self.width).sum((1, 3))

    def spread(self, units: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `UnitPattern`."""
        return units.repeat_interleave(self.rows, 0).repeat_interleave(self.width, 1)[:height, :width]

    def annotation(self, numbers: torch.Tensor, layer: Layer) -> Sparsity:
        """See `Pattern`."""
        return Sparsity(SparsityPattern.BLOCK, block_ratio(numbers != 0, (self.rows, self.width)), (self.rows, self.width))

    def columns(self) -> int:
        """See `Pattern`."""
        return self.width


@dataclass(frozen=True, slots=True)
class NOfM(Pattern):
    """Of every `m` consecutive inputs the `n` most important stay, the same ones for `rows` output channels."""

    n: int
    m: int
    rows: int = 1

    def declines(self, layer: Layer) -> str | None:
        """See `Pattern`."""
        if layer.inputs % self.m:
            return f"{layer.inputs} inputs{' of a group' if layer.groups > 1 else ''} are no multiple of {self.m}"
        if layer.outputs % self.rows:
            return f"{layer.outputs} output channels{' of a group' if layer.groups > 1 else ''} are no multiple of {self.rows}"
        return None

    def goes(self, scores: torch.Tensor, layer: Layer, ratio: float) -> torch.Tensor:
        """See `Pattern`."""
        aligned = scores.movedim(1, 0) if layer.transposed else scores  # [outputs, inputs, taps...]
        return self._goes(aligned).movedim(0, 1) if layer.transposed else self._goes(aligned)

    def _goes(self, scores: torch.Tensor) -> torch.Tensor:
        outputs, inputs = scores.shape[:2]
        groups = scores.reshape(outputs // self.rows, self.rows, inputs // self.m, self.m, -1)
        order = groups.sum(1).argsort(dim=2, stable=True)
        mask = torch.zeros(order.shape, dtype=torch.bool).scatter_(2, order[:, :, : self.m - self.n], True)
        return mask.unsqueeze(1).expand(groups.shape).reshape(scores.shape)

    def annotation(self, numbers: torch.Tensor, layer: Layer) -> Sparsity:
        """See `Pattern`."""
        return Sparsity(SparsityPattern.N_M, _zeros(numbers), (self.n, self.m), 0 if layer.transposed else 1)

    def columns(self) -> int:
        """See `Pattern`."""
        return self.m


def parse_pattern(text: str) -> Pattern:
    """`unstructured`, `2:4` or `4x1` as a pattern.

    Raises:
        PassOptionError: it is none of them.
    """
    if text == "unstructured":
        return Unstructured()
    if found := re.fullmatch(r"([0-9]{1,4})([:x])([0-9]{1,4})", text):
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and 0 < first < second:
            return NOfM(first, second)
        if found[2] == "x" and first and second:
            return Blocks(first, second)
    raise PassOptionError(f"pattern is '{text}', needs 'unstructured', N:M with 0 < N < M such as '2:4', or RxC such as '4x1'")


def lowest(scores: torch.Tensor, sizes: torch.Tensor, ratio: float) -> torch.Tensor:
    """A mask over units [U] of those with the lowest scores: `ratio` of the weights, to the nearest unit. Of equal ones the first go."""
    order = scores.argsort(stable=True)
    ends = sizes[order].cumsum(0)
    target = int(ratio * int(sizes.sum()) + 0.5)
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[order[ends - sizes[order] * 0.5 <= target]] = True
    return mask


def to_matrix(weight: torch.Tensor, layer: Layer, pattern: Pattern) -> torch.Tensor:
    """[groups, outputs, columns] of a weight that is not transposed; columns are inputs and taps.

    The inputs of a tap lie side by side for `NOfM`, the taps of an input for the others, so that what is decided
    together lies together.
    """
    grouped = weight.reshape(layer.groups, layer.outputs, layer.inputs, -1)
    return (grouped.transpose(2, 3) if isinstance(pattern, NOfM) else grouped).reshape(layer.groups, layer.outputs, -1)


def from_matrix(matrix: torch.Tensor, layer: Layer, pattern: Pattern) -> torch.Tensor:
    """The weight of a matrix; the inverse of `to_matrix`."""
    if not isinstance(pattern, NOfM):
        return matrix.reshape(layer.shape)
    return matrix.reshape(layer.groups, layer.outputs, -1, layer.inputs).transpose(2, 3).reshape(layer.shape)


def column_block(pattern: Pattern, about: int) -> int:
    """A number of columns near `about` that holds whole units."""
    return lcm(pattern.columns(), max(1, about // pattern.columns()) * pattern.columns())


def _zeros(numbers: torch.Tensor) -> float:
    return (numbers.numel() - int((numbers != 0).sum())) / numbers.numel()
