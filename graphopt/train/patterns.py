"""Where zeros may lie when a schedule places them, and which weights it keeps: the largest of each pattern.

    Unstructured()        any weight
    Block(4, 1)           4 output channels x 1 column, by the mean |w| of a block; columns are all axes but the first, flattened
    NM(2, 4, axis=1)      of every 4 consecutive weights along the axis 2 are kept, whatever the ratio

`keep` gives masks for several parameters at once. With scope "layer" each loses the same fraction, with "global" the
smallest weights of all go, so layers end up with different ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from graphopt.errors import UsageError
from graphopt.train.checks import is_whole
from graphopt.train.masks import block_expand, block_reduce

__all__ = ["NM", "Block", "Pattern", "Scope", "Unstructured", "keep_largest", "keep_n_of_m", "widened"]

Scope: TypeAlias = Literal["layer", "global"]


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Zeros anywhere."""

    def scores(self, values: torch.Tensor) -> torch.Tensor:
        """One number per weight, from a tensor of sizes (|w| or |gradient|)."""
        return values

    def spread(self, chosen: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """One number per weight, from one per score."""
        return chosen.reshape(shape)


@dataclass(frozen=True, slots=True)
class Block:
    """Blocks of `rows` x `columns` are zero as a whole."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if not (is_whole(self.rows) and is_whole(self.columns) and self.rows >= 1 and self.columns >= 1):
            raise UsageError(f"a block has {self.rows} rows and {self.columns} columns, needs at least 1 of each")

    def scores(self, values: torch.Tensor) -> torch.Tensor:
        """The mean size per block; ragged ends count with the elements that they have."""
        shape = (self.rows, self.columns)
        sums = block_reduce(values, shape).sum(-1)
        return sums / block_reduce(torch.ones_like(values), shape).sum(-1).clamp(min=1)

    def spread(self, chosen: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """One number per weight, from one per block."""
        return block_expand(chosen, (self.rows, self.columns), shape)


@dataclass(frozen=True, slots=True)
class NM:
    """`n` of every `m` consecutive weights along `axis` are kept; a shorter group at the end keeps n too."""

    n: int
    m: int
    axis: int = 1

    def __post_init__(self) -> None:
        if not (all(map(is_whole, (self.n, self.m, self.axis))) and 1 <= self.n <= self.m and self.axis >= 0):
            raise UsageError(f"the pattern {self.n!r}:{self.m!r} on axis {self.axis!r} makes no sense, needs 1 <= n <= m and axis >= 0")


Pattern: TypeAlias = "Unstructured | Block"


def keep_largest(values: Sequence[torch.Tensor], ratio: float, pattern: Pattern, scope: Scope) -> list[torch.Tensor]:
    """Masks that keep the largest values (sizes, or -1 for what goes first) and leave out the fraction `ratio`, rounded down
    to whole weights or blocks.

    Ties go to the earlier position, so that equal tensors give equal masks on every rank.
    """
    scores = [pattern.scores(value) for value in values]
    if scope == "global":
        order = torch.cat([score.flatten().float() for score in scores])
        parts = list(_kept(order, ratio).split([score.numel() for score in scores]))
    else:
        parts = [_kept(score.flatten(), ratio) for score in scores]
    return [pattern.spread(part.reshape(score.shape), value.shape) for part, score, value in zip(parts, scores, values, strict=True)]


def keep_n_of_m(values: torch.Tensor, pattern: NM) -> torch.Tensor:
    """The mask that keeps the n largest of every m along the axis.

    Raises:
        UsageError: the tensor has no such axis.
    """
    if values.dim() <= pattern.axis:
        raise UsageError(
            f"{pattern.n}:{pattern.m} on axis {pattern.axis} does not fit a parameter of shape {list(values.shape)}",
            fix="give weights with that axis only",
        )
    moved = values.detach().abs().movedim(pattern.axis, -1)
    size = moved.shape[-1]
    groups = torch.nn.functional.pad(moved.float(), (0, -size % pattern.m), value=-1.0).unflatten(-1, (-1, pattern.m))
    best = groups.argsort(dim=-1, descending=True, stable=True)[..., : pattern.n]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, best, True)
    return mask.flatten(-2)[..., :size].movedim(-1, pattern.axis).contiguous()


def widened(values: torch.Tensor) -> torch.Tensor:
    """Numbers to sum over, in float32 at least: squares of small ones are zero in float16, and differences are noise in bfloat16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _kept(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    count = scores.numel() - int(ratio * scores.numel() + 1e-9)
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(descending=True, stable=True)[:count]] = True
    return mask
