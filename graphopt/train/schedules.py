"""Objects beside a sparse optimizer that change its masks, or its weights, as training goes on.

    schedule = GradualPruning(optimizer, ratio=0.8, end=1000)
    for batch in loader:
        loss(batch).backward()
        optimizer.step()
        schedule.step()             # before zero_grad: RigL looks at the gradients
        optimizer.zero_grad()

Where a trainer calls the optimizer (Lightning, HF Trainer), `schedule.attach()` does the same from inside
`optimizer.step`. All have `state_dict` and `load_state_dict`; masks are in the optimizer's own state dict.

| class | does | source |
|---|---|---|
| `GradualPruning` | masks the smallest weights, ever more of them | Zhu & Gupta 2017 |
| `Proximal` | pulls weights, or blocks of them, to exactly zero | Parikh & Boyd 2014; Yuan & Lin 2006 |
| `RigL`, `SET` (regrow.py) | drop small weights, grow others | Evci et al. 2020; Mocanu et al. 2018 |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch

from graphopt.errors import UsageError
from graphopt.train.checks import check_kind, check_optimised, is_real, is_whole, shown
from graphopt.train.optimizers import SparseOptimizer
from graphopt.train.patterns import Block, Pattern, Scope, Unstructured, keep_largest, widened
from graphopt.train.sharded import whole

__all__ = ["GradualPruning", "Proximal", "Schedule", "given_weights", "sparse_optimizer", "weights_of"]


class Schedule(ABC):
    """Counts steps of an optimizer; what happens at one is the subclass's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.steps = 0

    def step(self) -> None:
        """To be called once after each step of the optimizer."""
        self.steps += 1
        with torch.no_grad():
            self._update()

    @abstractmethod
    def _update(self) -> None: ...

    def attach(self) -> torch.utils.hooks.RemovableHandle:
        """Make every step of the optimizer call `step`, until `remove()` of what is returned."""
        return self.optimizer.register_step_post_hook(self._after)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self.step()

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; the options are not in it."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps = int(state["steps"])


def given_weights(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor] | None) -> list[torch.Tensor] | None:
    """The parameters that the caller wants to be sparse; None where nothing was said.

    Raises:
        UsageError: one is not the optimizer's.
    """
    if parameters is None:
        return None
    chosen = list(parameters)
    check_optimised(chosen, _known(optimizer))
    return chosen


def weights_of(optimizer: torch.optim.Optimizer, given: list[torch.Tensor] | None) -> list[torch.Tensor]:
    """The parameters to work on at this step: those given, or all with two axes or more that are trained.

    A frozen parameter is one that the optimizer leaves alone, so nothing else that stands beside it may change it.
    """
    return [parameter for parameter in _known(optimizer) if parameter.dim() >= 2 and parameter.requires_grad] if given is None else given


def _known(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def sparse_optimizer(optimizer: torch.optim.Optimizer, what: str) -> SparseOptimizer:
    """The optimizer as one that keeps zeros.

    Raises:
        UsageError: it is none; `what` needs it.
    """
    if not isinstance(optimizer, SparseOptimizer):
        raise UsageError(f"{what} needs SparseSGD or SparseAdamW, got {type(optimizer).__name__}", fix="masks are kept by the optimizer")
    return optimizer


class GradualPruning(Schedule):
    """Cubic magnitude pruning: fast while there is much to spare, slow at the end.

        ratio(t) = ratio + (initial - ratio) (1 - (t - begin) / (end - begin))^3    every `every` steps

    Masked weights are zero and stay so. `parameters` are pruned, by default all with two axes or more that are not frozen.

    Source: Zhu & Gupta, "To prune, or not to prune", 2017, equation 1.

    Raises:
        UsageError: options out of range, or an optimizer that keeps no zeros.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        ratio: float,
        end: int,
        begin: int = 0,
        every: int = 100,
        initial: float = 0.0,
        pattern: Pattern | None = None,
        scope: Scope = "layer",
        parameters: Iterable[torch.Tensor] | None = None,
    ) -> None:
        super().__init__(optimizer)
        if not (is_real(initial) and is_real(ratio) and 0 <= initial <= ratio < 1):
            raise UsageError(f"ratios go from {shown(initial)} to {shown(ratio)}, need 0 <= initial <= ratio < 1")
        if not (all(map(is_whole, (begin, end, every))) and 0 <= begin < end and every >= 1):  # an end between steps would never come
            raise UsageError(
                f"pruning goes from step {begin} to {end}, every {every}, needs whole numbers, 0 <= begin < end and every >= 1"
            )
        if scope not in ("layer", "global"):
            raise UsageError(f"scope is {scope!r}, needs 'layer' or 'global'")
        if pattern is not None:
            check_kind("pattern", pattern, Block, Unstructured, examples="Block(4, 1); StraightThrough and sparsify-n-m make N:M")
        self._masker = sparse_optimizer(optimizer, "GradualPruning")
        self._given = given_weights(optimizer, parameters)
        self._ratios, self._span, self._every = (initial, ratio), (begin, end), every
        self._pattern: Pattern = pattern or Unstructured()
        self._scope: Scope = scope

    @property
    def ratio(self) -> float:
        """The fraction of zeros that the schedule asks for now."""
        (begin, end), (initial, final) = self._span, self._ratios
        if self.steps < begin:
            return 0.0
        left = 1 - min(1.0, (self.steps - begin) / (end - begin))
        return final + (initial - final) * left**3

    def _update(self) -> None:
        begin, end = self._span
        due = self.steps == end or (begin <= self.steps < end and (self.steps - begin) % self._every == 0)
        if not due:
            return
        parameters = weights_of(self.optimizer, self._given)
        if not parameters:  # all of them are frozen now
            return
        known = [None if (old := self._masker.mask(parameter)) is None else whole(old) for parameter in parameters]
        # What is masked goes before kept weights that are zero, as those that were just regrown.
        sizes = [
            widened(whole(parameter)).abs() if old is None else widened(whole(parameter)).abs().masked_fill(~old, -1.0)
            for parameter, old in zip(parameters, known, strict=True)
        ]
        masks = keep_largest(sizes, self.ratio, self._pattern, self._scope)
        for parameter, mask, old in zip(parameters, masks, known, strict=True):
            self._masker.set_mask(parameter, mask if old is None else mask & old)


class Proximal(Schedule):
    """Proximal gradient descent: after each step of the optimizer the exact minimiser of the penalty nearby.

        l1            w <- sign(w) max(|w| - lr l1, 0)                                    per weight
        group_lasso   w_b <- w_b max(1 - lr group_lasso sqrt(|b|) / ||w_b||, 0)          per block b

    Weights become exactly 0.0, and may come back; `optimizer.freeze_zeros()` keeps them. `blocks` is a `Block`, and
    `None` takes whole rows (output channels). lr is that of the parameter's group: with SGD this is proximal SGD. `parameters`
    are by default all with two axes or more that are not frozen.

    Sources: Parikh & Boyd, "Proximal algorithms", 2014, section 6.5; Yuan & Lin, 2006 (group lasso and its weight sqrt(|b|)).

    Raises:
        UsageError: no penalty, a negative one, or parameters that are not the optimizer's.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        l1: float = 0.0,
        group_lasso: float = 0.0,
        blocks: Block | None = None,
        parameters: Iterable[torch.Tensor] | None = None,
    ) -> None:
        super().__init__(optimizer)
        if not (is_real(l1) and is_real(group_lasso) and min(l1, group_lasso) >= 0 and max(l1, group_lasso) > 0):
            raise UsageError(f"the penalties are l1={shown(l1)} and group_lasso={shown(group_lasso)}, one has to be > 0 and none < 0")
        if blocks is not None and not group_lasso:
            raise UsageError(
                "blocks were given without group_lasso, which alone looks at them", fix="leave blocks out, or give group_lasso too"
            )
        if blocks is not None:
            check_kind("blocks", blocks, Block, examples="Block(4, 1)")
        self._given = given_weights(optimizer, parameters)
        self._l1, self._group_lasso, self._blocks = l1, group_lasso, blocks

    def _update(self) -> None:
        chosen = set(weights_of(self.optimizer, self._given))
        for group in self.optimizer.param_groups:
            rate = float(group["lr"])
            for parameter in group["params"]:
                if parameter not in chosen:
                    continue
                if self._l1:
                    parameter.copy_(torch.nn.functional.softshrink(parameter, rate * self._l1) + 0.0)
                if self._group_lasso:
                    self._shrink_groups(parameter, rate * self._group_lasso)

    def _shrink_groups(self, parameter: torch.Tensor, penalty: float) -> None:
        columns = parameter.numel() // max(parameter.shape[0], 1)
        block = self._blocks or Block(1, max(columns, 1))
        wide = widened(parameter)
        squares = block.spread(block.scores(wide.square()), parameter.shape)  # means over the block: sqrt(|b|) cancels
        scale = (1 - penalty / squares.sqrt()).clamp(min=0)
        parameter.copy_(torch.where(scale > 0, wide * scale, 0.0))
