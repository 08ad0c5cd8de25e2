"""Optimizers that keep zeros exactly zero: `torch.optim.SGD` and `AdamW` with masks.

    optimizer = SparseSGD(module.named_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

Each step is torch's own, foreach and fused kernels included, after which masked weights and everything that the
optimizer remembers of them (momentum, moments) are written as +0.0. All updates are elementwise, so weights that are
kept are what torch computes, bit for bit, and parameters without a mask are not touched at all. Writing zeros, and
not multiplying by the mask, is what makes this hold for NaN and infinite gradients of masked weights (NaN * 0 is NaN)
and keeps -0.0 out (-1 * 0 is -0.0). Gradients stay as they are: RigL grows weights by those of masked ones.

A weight that is unmasked later starts at zero with momentum zero. Under DistributedDataParallel nothing is to be done:
weights are equal on all ranks, and so are masks. Under `fully_shard` masks are spread as their parameters are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.types import Sparsity
from graphopt.train.masks import annotations_of, mask_of, masks_of, pack, unpack
from graphopt.train.sharded import spread_like

__all__ = ["Masks", "SparseAdamW", "SparseOptimizer", "SparseSGD", "keep_zeros"]

Masks: TypeAlias = (
    "Mapping[str, torch.Tensor] | Mapping[torch.Tensor, torch.Tensor] | Mapping[nn.Parameter, torch.Tensor] | nn.Module | Graph | None"
)
"""Where masks come from: bool tensors by name or by parameter, True is kept; a module or graph, by
`graphopt.train.masks_of`; None, the zeros of the parameters."""


class SparseOptimizer(torch.optim.Optimizer):
    """What the sparse optimizers have in common; a mix-in before one of torch's elementwise optimizers."""

    _prefixes = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile

    def _prepare(self, masks: Masks) -> None:
        """To be called before the constructor of torch's optimizer, which adds the groups."""
        self._zeros: dict[torch.Tensor, torch.Tensor] = {}
        self._wanted: dict[str | torch.Tensor, torch.Tensor] | None = None
        self._annotated: dict[str | torch.Tensor, Sparsity] = {}
        self._annotations: dict[torch.Tensor, Sparsity] = {}
        if isinstance(masks, nn.Module):
            annotations = annotations_of(masks)
            self._annotated = {parameter: annotations[name] for name, parameter in masks.named_parameters() if name in annotations}
            found = ((parameter, mask_of(parameter, annotations.get(name))) for name, parameter in masks.named_parameters())
            self._wanted = {parameter: mask for parameter, mask in found if mask is not None}
        elif isinstance(masks, Graph):
            self._wanted = {**masks_of(masks)}
            self._annotated = {name: state.type.sparsity for name, state in masks.states.items() if state.type.sparsity is not None}
        elif masks is not None:
            if not isinstance(masks, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
                raise UsageError(
                    f"masks is a {type(masks).__name__}, needs a module, a graph, or bool tensors by name or parameter",
                    fix="masks=result.graph with named_parameters(), masks=result.module, or masks={'fc.weight': mask}",
                )
            self._wanted = dict(cast("Mapping[str | torch.Tensor, torch.Tensor]", masks))

    def _start(self, masks: Masks) -> None:
        """To be called behind the constructor of torch's optimizer."""
        if isinstance(masks, Mapping):
            known = {*self._names(), *self._parameters()}
            for key in masks:
                if key not in known:
                    raise self._unknown(key)
        elif isinstance(masks, Graph) and self._wanted and not any(name in masks.states for name in self._names()):
            raise self._unknown(next(iter(self._wanted)))
        elif isinstance(masks, nn.Module) and self._wanted and set(masks.parameters()).isdisjoint(self._parameters()):
            raise UsageError(
                f"masks is a {type(masks).__name__} with {len(self._wanted)} sparse parameters, and none of its parameters is optimised",
                fix="give the module whose parameters the optimizer gets, or masks=graph with named_parameters() of a copy",
            )
        self.register_step_post_hook(_apply)

    def _unknown(self, key: object) -> UsageError:
        names = list(self._names())
        if not isinstance(key, str):
            shape = list(key.shape) if isinstance(key, torch.Tensor) else key
            return UsageError(f"a mask was given for a parameter of shape {shape} that is not optimised", fix="leave it out")
        if not names:
            return UsageError(
                f"a mask was given for '{key}', and the optimizer knows no names",
                fix="pass module.named_parameters() instead of parameters()",
            )
        near = difflib.get_close_matches(key, names, n=3) or names[:3]
        return UsageError(f"a mask was given for '{key}', which no parameter is called", fix=f"names are {', '.join(near)}, ...")

    def _names(self) -> Iterator[str]:
        for group in self.param_groups:
            yield from map(self._plain, group.get("param_names", ()))

    def _plain(self, name: str) -> str:
        while True:
            short = name
            for prefix in self._prefixes:
                short = short.removeprefix(prefix)
            if short == name or (self._wanted is not None and name in self._wanted):
                return name
            name = short

    def _parameters(self) -> Iterator[torch.Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; masks of the new parameters are found by the same rule as those of the first ones.

        Raises:
            UsageError: a mask does not fit its parameter.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        names: Iterable[str | None] = group.get("param_names", [None] * len(group["params"]))
        for name, parameter in zip(names, group["params"], strict=True):
            if self._wanted is None:
                mask = mask_of(parameter)
            else:
                mask = self._wanted.get(parameter)
                if mask is None and name is not None:
                    mask = self._wanted.get(self._plain(name))
            if mask is not None:
                self.set_mask(parameter, mask)
            annotation = self._annotated.get(parameter)
            if annotation is None and name is not None:
                annotation = self._annotated.get(self._plain(name))
            if annotation is not None:
                self._annotations[parameter] = annotation

    @property
    def masks(self) -> dict[torch.Tensor, torch.Tensor]:
        """The mask of each sparse parameter, True is kept; a copy."""
        return {parameter: ~zeros for parameter, zeros in self._zeros.items()}

    def mask(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """The mask of one parameter, None for a dense one."""
        zeros = self._zeros.get(parameter)
        return None if zeros is None else ~zeros

    def annotation(self, parameter: torch.Tensor) -> Sparsity | None:
        """How zeros of a parameter were annotated in the module or graph that masks came from; None where nothing is known."""
        return self._annotations.get(parameter)

    @torch.no_grad()
    def set_mask(self, parameter: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Give a parameter another mask, or None to make it dense. Weights that are now masked become +0.0 at once.

        Raises:
            UsageError: the mask is not bool, has another shape, or the parameter is not optimised here.
        """
        if not any(parameter is known for known in self._parameters()):
            raise UsageError(
                f"a mask was given for a parameter of shape {list(parameter.shape)} that is not optimised",
                fix="give the parameter itself that the optimizer got, no copy",
            )
        if mask is None:
            self._zeros.pop(parameter, None)
            return
        if not isinstance(mask, torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise UsageError(
                f"the mask of a parameter of shape {list(parameter.shape)} is a {type(mask).__name__}, needs a bool tensor",
                fix="give torch.as_tensor(mask), True where a weight is kept",
            )
        if mask.dtype != torch.bool or mask.shape != parameter.shape:
            raise UsageError(
                f"the mask is {str(mask.dtype).removeprefix('torch.')}{list(mask.shape)}, needs bool{list(parameter.shape)}",
                fix="give one bool per weight, True where it is kept: weight != 0",
            )
        self._zeros[parameter] = spread_like(~mask, parameter)
        self._write_zeros(parameter)

    def freeze_zeros(self) -> None:
        """Mask the parameters anew, where they are zero now (after `Proximal`, for example)."""
        for parameter in list(self._parameters()):
            self.set_mask(parameter, mask_of(parameter))

    @torch.no_grad()
    def _write_zeros(self, parameter: torch.Tensor) -> None:
        zeros = self._zeros[parameter]
        if zeros.device != parameter.device or zeros.stride() != parameter.stride():  # it was moved after the mask was made
            zeros = self._zeros[parameter] = torch.empty_like(parameter, dtype=torch.bool).copy_(zeros)
        parameter.masked_fill_(zeros, 0)
        for value in self.state[parameter].values() if parameter in self.state else ():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                value.masked_fill_(zeros, 0)

    def write_zeros(self) -> None:
        """Write +0.0 wherever a mask says so; every step does this by itself."""
        for parameter in self._zeros:
            self._write_zeros(parameter)

    def state_dict(self) -> dict[str, Any]:
        """Torch's, and under `masks` one bit per weight of each sparse parameter, by the parameter's number."""
        found = super().state_dict()
        found["masks"] = {
            index: pack(~self._zeros[parameter]) for index, parameter in enumerate(self._parameters()) if parameter in self._zeros
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Torch's, and the masks; those of now stay where the state dict is that of an optimizer without masks.

        Raises:
            UsageError: a mask does not fit its parameter.
            ValueError: torch's, where groups differ.
        """
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masks"})
        if "masks" in state_dict:
            stored = state_dict["masks"]
            for index, parameter in enumerate(list(self._parameters())):
                packed = stored.get(index)
                self.set_mask(parameter, None if packed is None else unpack(packed, parameter.device))
        self.write_zeros()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_zeros", "_wanted", "_annotated", "_annotations")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not any(hook is _apply for hook in self._optimizer_step_post_hooks.values()):
            self.register_step_post_hook(_apply)


def _apply(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """A hook of the optimizer, so that whoever wraps `step` (schedulers, Lightning, accelerate) gets it too."""
    del args, kwargs
    cast("SparseOptimizer", optimizer).write_zeros()


class SparseSGD(SparseOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` that keeps zeros exactly zero; all its options, and `masks`.

    `params` is what torch takes; `module.named_parameters()` where masks are given by name.

    Raises:
        UsageError: a mask is not bool, has another shape than its parameter, or fits no parameter.
        ValueError: torch's, for options out of range.
    """

    def __init__(self, params: Any, lr: float | torch.Tensor = 1e-3, *, masks: Masks = None, **options: Any) -> None:
        self._prepare(masks)
        torch.optim.SGD.__init__(self, params, lr, **options)
        self._start(masks)


class SparseAdamW(SparseOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW` (decoupled weight decay) that keeps zeros exactly zero; all its options, and `masks`.

    `params` is what torch takes; `module.named_parameters()` where masks are given by name. A weight that is unmasked
    later starts with moments of zero, and is corrected for bias by the steps that its parameter has seen.

    Raises:
        UsageError: a mask is not bool, has another shape than its parameter, or fits no parameter.
        ValueError: torch's, for options out of range.
    """

    def __init__(self, params: Any, lr: float | torch.Tensor = 1e-3, *, masks: Masks = None, **options: Any) -> None:
        self._prepare(masks)
        torch.optim.AdamW.__init__(self, params, lr, **options)
        self._start(masks)


def keep_zeros(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Make every step of any optimizer leave +0.0 where `masks_of(module)` says so now.

    What the optimizer remembers of these weights is its own affair, unlike with a `SparseOptimizer`.
    """
    masks = masks_of(module)
    zeros = [(parameter, ~masks[name]) for name, parameter in module.named_parameters() if name in masks]

    def write(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        with torch.no_grad():
            for parameter, places in zeros:
                parameter.masked_fill_(spread_like(places, parameter), 0)

    optimizer.register_step_post_hook(write)
