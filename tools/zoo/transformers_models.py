"""transformers architectures with tiny configurations: two layers, 64 wide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["build_transformers"]

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("transformers.json").read_text())
_SMALL: dict[str, Any] = _TABLE["small"]
_ARCHITECTURES: dict[str, dict[str, Any]] = _TABLE["architectures"]

_NO_GENERIC = frozenset(("convnext", "detr", "resnet", "sam", "segformer", "swin"))
"""Architectures with stages, where one width or depth for all makes no sense."""

_DUAL = {
    "clip": ("CLIPTextConfig", "CLIPVisionConfig"),
    "siglip": ("SiglipTextConfig", "SiglipVisionConfig"),
}

_IMAGE = frozenset(
    ("beit", "convnext", "deit", "detr", "dinov2", "dpt", "mobilenet_v2", "mobilevit", "resnet", "segformer", "swin", "vit", "yolos")
)
_AUDIO = frozenset(("hubert", "wav2vec2"))
_ENCODER_DECODER = frozenset(("bart", "m2m_100", "pegasus", "t5"))


def build_transformers(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Model, positional inputs and keyword inputs."""
    model_class = getattr(transformers, _ARCHITECTURES[name]["class"])
    config = _config(name, model_class.config_class)
    module = model_class(config)
    return module, (), _inputs(name)


def _small_options(config_class: Any, name: str) -> dict[str, Any]:
    known = set(vars(config_class())) | set(getattr(config_class, "attribute_map", {}))
    generic = {} if name in _NO_GENERIC else {key: value for key, value in _SMALL.items() if key in known}
    return generic | (_ARCHITECTURES[name]["options"] if name else {})


def _config(name: str, config_class: Any) -> Any:
    if name in _DUAL:
        text, vision = (getattr(transformers, part) for part in _DUAL[name])
        text_options = _small_options(text, "") | {"projection_dim": 32, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
        vision_options = _small_options(vision, "") | {"patch_size": 16, "projection_dim": 32}
        return config_class(text_config=text_options, vision_config=vision_options)
    options = _small_options(config_class, name)
    if name == "detr":
        backbone: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "layer_type": "basic"}
        backbone["out_features"] = ["stage4"]
        options["backbone_config"] = transformers.ResNetConfig(**backbone)
        options |= {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}
    return config_class(**options)


def _inputs(name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 100, (1, 16), generator=generator)
    mask = torch.ones_like(tokens)
    if name in _IMAGE:
        side = {"dinov2": 56}.get(name, 64)
        return {"pixel_values": torch.randn(1, 3, side, side, generator=generator)}
    if name in _DUAL:
        image = torch.randn(1, 3, 64, 64, generator=generator)
        tokens[:, -1] = 2
        return {"input_ids": tokens, "pixel_values": image, **({"attention_mask": mask} if name == "clip" else {})}
    if name == "sam":
        points = torch.rand(1, 1, 2, 2, generator=generator) * 64
        return {"pixel_values": torch.randn(1, 3, 64, 64, generator=generator), "input_points": points}
    if name in _AUDIO:
        return {"input_values": torch.randn(1, 1600, generator=generator)}
    if name == "whisper":
        features = torch.randn(1, 16, 64, generator=generator)
        return {"input_features": features, "decoder_input_ids": tokens[:, :8]}
    if name in _ENCODER_DECODER:
        return {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": tokens[:, :8]}
    if name in ("mamba", "mamba2", "rwkv"):
        return {"input_ids": tokens}
    return {"input_ids": tokens, "attention_mask": mask}
