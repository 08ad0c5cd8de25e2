"""What Torch-Pruning's own examples do by hand for networks with attention: unfused attention, heads, sizes mended."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["heads_of", "kept_whole", "mend_sizes", "unfuse"]

_PARTS = ("classifier", "aux_classifier", "head", "heads", "fc", "lm_head", "cls")
"""Where classifiers live, for networks that change their classifier's output before returning it."""
_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_PER_HEAD = ("head_dim", "attention_head_size", "key_dim", "d_head", "dim_head", "key_value_proj_dim")
_ALL = ("attn_dim", "all_head_size", "inner_dim", "embed_dim", "dim")


def kept_whole(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[nn.Module]:
    """Layers whose outputs the model returns, or that are the last ones of a classifier."""
    produced: dict[int, nn.Module] = {}
    kept: list[torch.Tensor] = []
    handles: list[Any] = []

    def remember(module: nn.Module, given: Any, result: Any) -> None:
        del given
        if isinstance(result, torch.Tensor):
            produced[result.untyped_storage().data_ptr()] = module
            kept.append(result)  # so that no address is used twice

    for module in model.modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(remember))
    with torch.no_grad():
        outputs = model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    found = [produced[p] for tensor in flat(outputs) if (p := tensor.untyped_storage().data_ptr()) in produced]
    for part in _PARTS:
        layers = [m for m in getattr(model, part, nn.Identity()).modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
        found += layers[-1:]
    return list(dict.fromkeys(found))


def flat(outputs: Any) -> list[torch.Tensor]:
    """The tensors of nested outputs."""
    from torch.utils import _pytree as pytree

    if isinstance(outputs, dict):
        outputs = dict(outputs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def unfuse(model: nn.Module) -> None:
    """Attention step by step, as Torch-Pruning follows it."""
    if hasattr(model, "set_attn_implementation"):
        getattr(model, "set_attn_implementation")("eager")  # noqa: B009  # only models of transformers have it
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """Projections of attention modules, packed or apart, and their numbers of heads."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        heads = next((count for name in _COUNTS if isinstance(count := getattr(module, name, None), int)), None)
        config = getattr(module, "config", None)
        if heads is None and config is not None:
            heads = getattr(config, "num_attention_heads", None)
        if not isinstance(heads, int):
            continue
        fewer = getattr(config, "num_key_value_heads", None) or heads
        for names, count in (
            (("qkv", "query", "q_proj", "q", "q_lin"), heads),
            (("key", "value", "k_proj", "v_proj", "k", "v", "k_lin", "v_lin"), fewer),
        ):
            found |= {layer: count for name in names if isinstance(layer := getattr(module, name, None), nn.Linear)}
    return found


def mend_sizes(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Set the sizes that the Python code of attention modules keeps to those of their pruned layers."""
    for module in model.modules():
        for name, parts in (("qkv", 3), ("query", 1), ("q_proj", 1), ("q", 1), ("q_lin", 1)):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear) and layer in heads:
                width = layer.out_features // parts
                for sizes, value in ((_PER_HEAD, width // heads[layer]), (_ALL, width)):
                    for size in sizes:
                        if isinstance(getattr(module, size, None), int):
                            setattr(module, size, value)
    projection = getattr(model, "conv_proj", None)
    if isinstance(projection, nn.Conv2d) and hasattr(model, "hidden_dim"):
        model.hidden_dim = projection.out_channels  # type: ignore[assignment]  # torchvision's ViT
