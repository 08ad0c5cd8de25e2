"""timm models with random weights, at the size that the model declares."""

from __future__ import annotations

from typing import Any

import timm
import torch

__all__ = ["build_timm"]


def build_timm(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Model, positional inputs and keyword inputs."""
    module = timm.create_model(name, pretrained=False)
    declared = getattr(module, "pretrained_cfg", None) or {}
    channels, height, width = declared.get("input_size", (3, 224, 224))
    if not declared.get("fixed_input_size", False) and _is_convolutional(module):
        # The smallest size that every stage can halve keeps 149 models affordable.
        height = width = min(height, 128)
    generator = torch.Generator().manual_seed(1)
    return module, (torch.randn(1, channels, height, width, generator=generator),), {}


def _is_convolutional(module: torch.nn.Module) -> bool:
    """True when nothing in the model ties it to one image size, as position embeddings do."""
    attention = ("attention", "attn", "window", "pos_embed", "relpos", "halo", "lambda", "mixer", "gate", "mlp")
    names = {type(m).__name__.lower() for m in module.modules()} | {n.lower() for n, _ in module.named_parameters()}
    return not any(word in name for name in names for word in attention)
