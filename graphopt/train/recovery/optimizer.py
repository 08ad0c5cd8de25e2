"""The optimizer of a recovery: one of this package by name, or what a function of the caller makes of the named parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from graphopt.errors import GraphoptError, UsageError
from graphopt.train.checks import is_real, shown
from graphopt.train.optimizers import SparseAdamW, SparseOptimizer, SparseSGD, keep_zeros

__all__ = ["OptimizerChoice", "chosen_optimizer"]

OptimizerChoice: TypeAlias = 'Literal["sgd", "adamw"] | Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]'


def chosen_optimizer(
    choice: OptimizerChoice, module: nn.Module, lr: float | None, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of a module's trainable parameters, which keeps zeros.

    Raises:
        UsageError: there is nothing to train, a number is out of range, or the caller's function makes nothing that would train it.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise UsageError("the student has no parameter that could be trained", fix="parameters need requires_grad=True at capture")
    if lr is not None and not (is_real(lr) and lr > 0):
        raise UsageError(f"lr is {shown(lr)}, needs > 0")
    if not (is_real(momentum) and is_real(weight_decay) and momentum >= 0 and weight_decay >= 0):
        raise UsageError(f"momentum is {shown(momentum)} and weight_decay {shown(weight_decay)}, both need >= 0")
    if choice == "sgd":
        return SparseSGD(
            named, 0.01 if lr is None else lr, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay, masks=module
        )
    if choice == "adamw":
        return SparseAdamW(named, 1e-4 if lr is None else lr, weight_decay=weight_decay, masks=module)
    if not callable(choice):
        given = f"of the type {type(choice).__name__}" if isinstance(choice, torch.optim.Optimizer) else repr(choice)
        raise UsageError(
            f"optimizer is {given}, needs 'sgd', 'adamw' or a function of the named parameters",
            fix="a function, since a copy is trained: optimizer=lambda named: torch.optim.Adam(named, lr=0.001)",
        )
    try:
        made = cast("object", choice(named))
    except GraphoptError:
        raise
    except Exception as error:
        raise UsageError(
            f"the function of the optimizer raised {type(error).__name__}: {error}", fix="it gets a list of (name, parameter)"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(f"the function of the optimizer returned a {type(made).__name__}, needs a torch.optim.Optimizer")
    _check_made(made, [parameter for _, parameter in named])
    if not isinstance(made, SparseOptimizer):  # one of these has masks of its own, which schedules may move
        keep_zeros(made, module)
    return made


def _check_made(made: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
    mine = {id(parameter) for parameter in trained}
    name = type(made).__name__
    for group in made.param_groups:
        if any(id(parameter) not in mine for parameter in group["params"]):
            raise UsageError(
                f"the {name} that the function of the optimizer returned has parameters that are not those of the student",
                fix="make it of the parameters that the function gets: what is trained is a copy of the model",
            )
        if not isinstance(group.get("lr"), float | int | torch.Tensor):
            raise UsageError(f"the {name} that the function of the optimizer returned has the lr {group.get('lr')}, needs a number")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{name} evaluates the loss several times in a step (its step needs a closure), which recover does not do",
            fix="use another optimizer, or a loop of your own",
        )
