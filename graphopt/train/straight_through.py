"""Training N:M sparse weights through the mask: SR-STE.

    trainer = StraightThrough(optimizer, NM(2, 4))
    for batch in loader:
        loss(batch).backward()      # the module has N:M sparse weights
        optimizer.step()            # updates the dense weights behind them
        trainer.step()              # and the module has the sparse ones of these
        optimizer.zero_grad()
    trainer.finish()

    w_sparse = mask(w) * w,    w <- w - lr (dL/dw_sparse + decay (1 - mask) w)

The gradient at the sparse weights goes straight to all dense ones, so that a masked weight may come back; the decay
pulls masked ones to zero, which stops the mask from flickering.

Source: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", ICLR 2021, equation 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from graphopt.errors import UsageError
from graphopt.train.checks import check_kind, check_optimised, is_real, shown
from graphopt.train.patterns import NM, keep_n_of_m

__all__ = ["StraightThrough"]


class StraightThrough:
    """Keeps the dense weights while the module has the sparse ones; from its construction on the module is N:M sparse.

    `parameters` are by default all with two axes or more whose axis `pattern.axis` has at least `m` elements, but for frozen ones. The
    optimizer may be any of torch's. Save `state_dict()` with those of the module and of the optimizer: the dense weights are only in it.

    Raises:
        UsageError: no parameter fits the pattern, one of those given is not optimised, or the decay is negative.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, pattern: NM, *, decay: float = 2e-4, parameters: Iterable[torch.Tensor] | None = None
    ) -> None:
        if not (is_real(decay) and decay >= 0):
            raise UsageError(f"decay is {shown(decay)}, needs >= 0")
        check_kind("pattern", pattern, NM, examples="NM(2, 4)")
        known = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        chosen = list(known if parameters is None else parameters)
        if parameters is None:
            chosen = [p for p in known if p.requires_grad and p.dim() > max(1, pattern.axis) and p.shape[pattern.axis] >= pattern.m]
        else:
            check_optimised(chosen, known)
        if not chosen:
            raise UsageError(
                f"no trained parameter has {pattern.m} elements or more on axis {pattern.axis}, so none can be {pattern.n}:{pattern.m}",
                fix="give the optimizer the weights of larger layers, or use a pattern with a smaller m",
            )
        self._pattern, self._decay, self._parameters = pattern, decay, chosen
        self._dense = [parameter.detach().clone() for parameter in chosen]
        self._masks = [keep_n_of_m(parameter, pattern) for parameter in chosen]
        self._optimizer, self._stepped = optimizer, False
        self._handle = optimizer.register_step_pre_hook(self._before)
        self._project()

    @property
    def masks(self) -> dict[torch.Tensor, torch.Tensor]:
        """The mask of each parameter, True is kept."""
        return dict(zip(self._parameters, self._masks, strict=True))

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Before the step: the dense weights and their gradients; where there is a closure, behind it."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # torch gives the optimizer itself first
        if closure is None:
            self._restore()
            return None
        wrapped = self._behind(closure)
        return ((args[0], wrapped), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": wrapped})

    def _behind(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            if self._stepped:  # an optimizer that evaluates several times, as LBFGS: always at the sparse weights
                self._keep_dense()
            found = closure()
            self._restore()
            return found

        return run

    @torch.no_grad()
    def _restore(self) -> None:
        scale = getattr(self._optimizer, "grad_scale", None)  # fused optimizers divide gradients by that of a gradient scaler themselves
        decay = self._decay * (1.0 if scale is None else float(scale))
        for parameter, dense, mask in zip(self._parameters, self._dense, self._masks, strict=True):
            parameter.copy_(dense)
            if parameter.grad is not None and self._decay:
                parameter.grad.add_(dense.masked_fill(mask, 0), alpha=decay)
        self._stepped = True

    def _keep_dense(self) -> None:
        for index, parameter in enumerate(self._parameters):
            self._dense[index].copy_(parameter.detach())
            self._masks[index] = keep_n_of_m(parameter, self._pattern)
        self._project()

    @torch.no_grad()
    def _project(self) -> None:
        for parameter, mask in zip(self._parameters, self._masks, strict=True):
            parameter.masked_fill_(~mask, 0)
        self._stepped = False

    def step(self) -> None:
        """To be called after each step of the optimizer; does nothing where that was skipped, as by a gradient scaler."""
        if self._stepped:
            self._keep_dense()

    def finish(self) -> None:
        """Leave the sparse weights in the module and let go of the optimizer."""
        self.step()
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """The dense weights, in the parameters' order; call it behind `step`."""
        return {"dense": [dense.clone() for dense in self._dense]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UsageError: the weights have other shapes.
        """
        stored: list[torch.Tensor] = state["dense"]
        shapes, own = [list(dense.shape) for dense in stored], [list(dense.shape) for dense in self._dense]
        if shapes != own:
            raise UsageError(
                f"the state has weights of shapes {shapes}, the parameters have {own}",
                fix="load it for the same parameters, in the same order",
            )
        for dense, parameter, saved in zip(self._dense, self._parameters, stored, strict=True):
            dense.copy_(saved)
            parameter.copy_(saved)
        self._masks = [keep_n_of_m(dense, self._pattern) for dense in self._dense]
        self._project()
