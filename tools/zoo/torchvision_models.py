"""torchvision models with random weights and small inputs."""

from __future__ import annotations

from typing import Any

import torch
import torchvision

__all__ = ["build_torchvision"]

_SIDE = {"inception_v3": 128, "maxvit_t": 224, "ssd300_vgg16": 300, "regnet_y_128gf": 64, "vit_h_14": 224}
_VIDEO = {
    "mc3_18": 8,
    "r2plus1d_18": 8,
    "r3d_18": 8,
    "s3d": 16,
    "mvit_v1_b": 16,
    "mvit_v2_s": 16,
    "swin3d_t": 8,
    "swin3d_s": 8,
    "swin3d_b": 8,
}
_DETECTORS = ("rcnn", "retinanet", "fcos", "ssd")


def build_torchvision(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Model, positional inputs and keyword inputs."""
    options: dict[str, Any] = {"weights": None}
    if any(part in name for part in _DETECTORS) or name.startswith(("deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": True}
    module = torchvision.models.get_model(name, **options)
    generator = torch.Generator().manual_seed(1)
    if name in _VIDEO:
        side = 224 if name.startswith("mvit") else 64
        if name == "s3d":
            side = 224
        return module, (torch.randn(1, 3, _VIDEO[name], side, side, generator=generator),), {}
    if name.startswith("raft"):
        pair = torch.rand(2, 1, 3, 128, 128, generator=generator)
        return module, (pair[0], pair[1]), {"num_flow_updates": 2}
    if any(part in name for part in _DETECTORS):
        side = _SIDE.get(name, 128)
        return module, ([torch.rand(3, side, side, generator=generator)],), {}
    side = _SIDE.get(name, 224 if name.startswith("vit") else 64)
    batch = 2 if name.startswith("deeplab") else 1
    return module, (torch.randn(batch, 3, side, side, generator=generator),), {}
