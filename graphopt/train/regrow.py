"""Schedules that exchange weights: the smallest kept ones go, and as many come elsewhere.

    optimizer = SparseSGD(module.parameters(), lr=0.1, masks=module)
    schedule = RigL(optimizer, end=1000)

What is exchanged follows the pattern of a parameter's zeros, so that a pattern that a backend is fast with is still
there at the end:

| pattern | exchanged | counted |
|---|---|---|
| unstructured | single weights | in the layer |
| block 4x1 | whole blocks, by the mean of their sizes or gradients | in the layer |
| 2:4 | single weights | in each group of 4: what goes makes room for another one there |

The pattern is the one given, else that of the annotation where the optimizer's masks came from a module or graph, else
the one that the mask follows by itself.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch.nn import functional

from graphopt.analysis.sparsity_patterns import fitting_pattern
from graphopt.errors import UsageError
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.train.checks import check_kind, is_real, is_whole, shown
from graphopt.train.patterns import NM, Block, Pattern, Unstructured
from graphopt.train.schedules import Schedule, given_weights, sparse_optimizer
from graphopt.train.sharded import whole

__all__ = ["SET", "RigL"]


class _Regrow(Schedule):
    """Drops the smallest kept weights of each layer and grows as many elsewhere; the number of zeros stays.

    At step t a fraction `fraction / 2 (1 + cos(pi t / end))` of the kept weights is exchanged, every `every` steps until
    `end`. Grown weights start at zero, and so does what the optimizer remembers of them. Frozen parameters keep their weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        end: int,
        fraction: float = 0.3,
        every: int = 100,
        pattern: Pattern | NM | None = None,
        parameters: Iterable[torch.Tensor] | None = None,
    ) -> None:
        super().__init__(optimizer)
        if not (is_real(fraction) and 0 < fraction <= 1 and is_whole(end) and is_whole(every) and end >= 1 and every >= 1):
            raise UsageError(
                f"fraction {shown(fraction)} is exchanged every {every} steps until {end}, needs 0 < fraction <= 1 and at least 1 step each"
            )
        if pattern is not None:
            check_kind("pattern", pattern, Block, NM, Unstructured, examples="Block(4, 1) or NM(2, 4)")
        self._masker = sparse_optimizer(optimizer, type(self).__name__)
        self._given = given_weights(optimizer, parameters)
        self._end, self._fraction, self._every, self._pattern = end, fraction, every, pattern

    @property
    def fraction(self) -> float:
        """The fraction of kept weights that is exchanged at this step."""
        return self._fraction / 2 * (1 + math.cos(math.pi * min(self.steps, self._end) / self._end))

    def _update(self) -> None:
        if self.steps % self._every or self.steps >= self._end:
            return
        masks = self._masker.masks
        for index, parameter in enumerate(self._given if self._given is not None else list(masks)):
            if parameter in masks and parameter.requires_grad:
                self._exchange(parameter, whole(masks[parameter]), index)

    def _exchange(self, parameter: torch.Tensor, mask: torch.Tensor, index: int) -> None:
        pattern = self._pattern_of(parameter, mask)
        units = pattern if isinstance(pattern, Block) else Unstructured()
        old = units.scores(mask.float()) > 0
        sizes = torch.nan_to_num(
            units.scores(whole(parameter.detach()).abs().float()), nan=0.0
        )  # below infinity, which marks what is masked
        going = sizes.masked_fill(~old, math.inf).flatten().argsort(stable=True)[: round(self.fraction * int(old.sum()))]
        dropped = torch.zeros_like(old).flatten().index_fill(0, going, value=True).reshape(old.shape)
        scores = self._scores(parameter, units, old, index).masked_fill(old & ~dropped, -1.0)
        parts = [_grouped(part, pattern) for part in (old & ~dropped, dropped, sizes, scores)]
        made = _ungrouped(_grown(*parts), pattern, old.shape)
        if bool((made & dropped).any()):  # these begin anew like the others: they are masked for a moment
            self._masker.set_mask(parameter, units.spread(made & ~dropped, parameter.shape))
        self._masker.set_mask(parameter, units.spread(made, parameter.shape))

    def _pattern_of(self, parameter: torch.Tensor, mask: torch.Tensor) -> Pattern | NM:
        """What is exchanged together.

        Raises:
            UsageError: the mask does not follow the pattern that was given or annotated.
        """
        annotation = self._masker.annotation(parameter)
        pattern = self._pattern or _pattern(annotation if annotation is not None else fitting_pattern(mask))
        match pattern:
            case Block():
                follows = torch.equal(pattern.spread(pattern.scores(mask.float()) > 0, mask.shape), mask)
            case NM():
                follows = mask.dim() > pattern.axis and int(_grouped(mask, pattern).sum(1).max()) <= pattern.n
            case _:
                follows = True
        if not follows:
            raise UsageError(
                f"{type(self).__name__} exchanges weights in the pattern {pattern}, and the mask of a parameter of shape "
                f"{list(mask.shape)} does not follow it",
                fix="pass pattern=Unstructured() to exchange single weights anywhere, or parameters= without this one",
            )
        return pattern

    @abstractmethod
    def _scores(self, parameter: torch.Tensor, units: Pattern, old: torch.Tensor, index: int) -> torch.Tensor:
        """How much each unit wants to grow, 0 or more, of the shape of `old`; -1 where it may not."""


class RigL(_Regrow):
    """Drops small weights and grows those whose gradients are largest, dropped ones among them.

    Needs the gradients of the step, so call `step` before `zero_grad`. Unlike in the paper, the optimizer steps at those
    iterations too. Blocks and N:M groups are exchanged as such: see the top of the file, and `pattern`.

    Source: Evci et al., "Rigging the Lottery", ICML 2020, algorithm 1.

    Raises:
        UsageError: options out of range, an optimizer that keeps no zeros, gradients that are gone, or a mask that does
            not follow the pattern.
    """

    def _scores(self, parameter: torch.Tensor, units: Pattern, old: torch.Tensor, index: int) -> torch.Tensor:
        if parameter.grad is None:
            raise UsageError(
                f"RigL found no gradient for a sparse parameter of shape {list(parameter.shape)}",
                fix="call schedule.step() after optimizer.step() and before zero_grad(), or schedule.attach(); a parameter that the loss "
                "does not use is left out by parameters=",
            )
        return units.scores(torch.nan_to_num(whole(parameter.grad.detach()).abs().float(), nan=0.0))


class SET(_Regrow):
    """Drops small weights and grows random ones that were not there before. Every rank draws the same from `seed`.

    Blocks and N:M groups are exchanged as such: see the top of the file, and `pattern`.

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired
    by network science", Nature Communications 2018. The paper exchanges a constant fraction; here it decays as in RigL.

    Raises:
        UsageError: options out of range, an optimizer that keeps no zeros, or a mask that does not follow the pattern.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int = 0,
        end: int,
        fraction: float = 0.3,
        every: int = 100,
        pattern: Pattern | NM | None = None,
    ) -> None:
        super().__init__(optimizer, end=end, fraction=fraction, every=every, pattern=pattern)
        if not is_whole(seed):
            raise UsageError(
                f"seed is {seed!r}, needs a whole number", fix="every process draws from it, and texts have another hash in each"
            )
        self._seed = seed

    def _scores(self, parameter: torch.Tensor, units: Pattern, old: torch.Tensor, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((self._seed, self.steps, index)) & (2**63 - 1))
        return torch.rand(old.numel(), generator=generator).reshape(old.shape).to(parameter.device).masked_fill(old, -1.0)


def _pattern(sparsity: Sparsity | None) -> Pattern | NM:
    match sparsity:
        case Sparsity(pattern=SparsityPattern.BLOCK):
            return Block(*sparsity.shape)
        case Sparsity(pattern=SparsityPattern.N_M):
            return NM(*sparsity.shape, axis=sparsity.axis)
        case _:
            return Unstructured()


def _grouped(units: torch.Tensor, pattern: Pattern | NM) -> torch.Tensor:
    """[groups, units]: what is counted together; the ends of short groups are filled with False or -1."""
    if not isinstance(pattern, NM):
        return units.reshape(1, -1)
    moved = units.movedim(pattern.axis, -1)
    filled = functional.pad(moved, (0, -moved.shape[-1] % pattern.m), value=False if units.dtype == torch.bool else -1.0)
    return filled.reshape(-1, pattern.m)


def _ungrouped(groups: torch.Tensor, pattern: Pattern | NM, shape: torch.Size) -> torch.Tensor:
    """The other way round."""
    if not isinstance(pattern, NM):
        return groups.reshape(shape)
    size = shape[pattern.axis]
    others = [length for axis, length in enumerate(shape) if axis != pattern.axis]
    return groups.reshape(*others, -1)[..., :size].movedim(-1, pattern.axis)


def _grown(staying: torch.Tensor, dropped: torch.Tensor, sizes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """In each group as many as were dropped: those with the highest scores, and where these are too few the largest dropped ones."""
    count = dropped.sum(1, keepdim=True)
    grown = (_rank(scores) < count) & (scores >= 0)
    missing = count - grown.sum(1, keepdim=True)
    left = dropped & ~grown
    back = left & (_rank(sizes.masked_fill(~left, -1.0)) < missing)
    return staying | grown | back


def _rank(values: torch.Tensor) -> torch.Tensor:
    """The place of each value in its row, 0 for the largest; ties go to the earlier one."""
    return values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
