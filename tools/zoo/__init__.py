"""The models that coverage and benchmarks run on: 109 torchvision, 149 timm, 57 transformers.

`models.json` lists the names. Weights are random: nothing is downloaded. Zero-initialised layers get
small random numbers, so that comparing outputs compares something.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["ZooModel", "build", "names", "randomise"]

_LIST = Path(__file__).with_name("models.json")


@dataclass(frozen=True)
class ZooModel:
    """A model in eval mode with inputs that it accepts."""

    name: str
    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def names(family: str | None = None) -> list[str]:
    """Model names such as `timm:levit_128s`, of one family or all."""
    listed: dict[str, list[str]] = json.loads(_LIST.read_text())
    return [f"{group}:{name}" for group, models in listed.items() if family in (None, group) for name in models]


def build(name: str) -> ZooModel:
    """Build a model by name, seeded, with randomised zero layers."""
    family, _, model = name.partition(":")
    torch.manual_seed(0)
    match family:
        case "torchvision":
            from tools.zoo.torchvision_models import build_torchvision as builder
        case "timm":
            from tools.zoo.timm_models import build_timm as builder
        case "transformers":
            from tools.zoo.transformers_models import build_transformers as builder
        case _:
            raise ValueError(f"unknown family '{family}' in '{name}', use torchvision:, timm: or transformers:")
    module, args, kwargs = builder(model)
    module = module.eval()
    randomise(module)
    _settle_batch_norms(module, args, kwargs)
    return ZooModel(name, module, args, kwargs)


def _settle_batch_norms(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give batch norms the statistics of the inputs, as training would, shifted a little.

    With statistics that do not fit, activations of a deep network explode or vanish, and float32 itself is
    off by more than anything that one wants to see.
    """
    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    norms = [m for m in module.modules() if isinstance(m, kinds) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    doubled = tuple(torch.cat([a, torch.randn(a.shape, generator=torch.Generator().manual_seed(2))]) if _is_batch(a) else a for a in args)
    try:
        with torch.no_grad():
            module(*doubled, **kwargs)
    except (ValueError, RuntimeError):
        # One value per channel (a pool to 1x1 of one image) has no variance: such a model keeps random statistics.
        randomise(module)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    with torch.no_grad():
        for norm in norms:
            assert norm.running_mean is not None, "the norm tracks statistics"
            assert norm.running_var is not None, "the norm tracks statistics"
            norm.running_mean.mul_(0.9)
            norm.running_var.mul_(1.1).clamp_(min=1e-3)


def _is_batch(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 4


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Give constant parameters (zeros, ones, layer scales of 1e-6) and running statistics random values.

    A network whose last layer is zero, or whose residual branches are, would agree with anything.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point() or parameter.numel() == 0:
                continue
            first = parameter.flatten()[0]
            if not bool((parameter == first).all()):
                continue
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            base = 1.0 if float(first) == 1.0 or name.endswith("norm.weight") else 0.0
            parameter.copy_(base + 0.2 * noise)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * (torch.rand(buffer.shape, generator=generator) - 0.5))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
