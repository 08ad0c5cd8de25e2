"""Torch-Pruning (Fang et al., DepGraph, CVPR 2023): MagnitudePruner with group importance, as its documentation says.

It gets what we get: widths in the same multiples, the layers whose outputs are the network's own, the attention's heads
(whole ones are removed, as with ours) and the corrections that the network's Python code needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tools.bench_quality.packages import need
from tools.bench_quality.records import LONGER, STAGES
from tools.bench_quality.tasks.base import Item, Task
from tools.bench_shrink.methods.arm import Arm, Shrunk

__all__ = ["PEERS", "Pruner", "re_estimate_norms"]

_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


@dataclass(frozen=True)
class Pruner(Arm):
    """Local or global and isomorphic ranking, by group norms or, with `is_taylor`, by gradients on the calibration data.

    On request with batch norms re-estimated on calibration data afterwards.
    """

    name: str
    is_global: bool = False
    is_taylor: bool = False
    re_estimates: bool = False
    draws: bool = False

    def stages(self, task: Task) -> tuple[str, ...]:
        """Re-estimated norms matter where there are some, and until they are trained."""
        return (("plain",) if task.schedule.trains_norms else ()) if self.re_estimates else (*STAGES, LONGER)

    def shrink(self, task: Task, level: float, seed: int) -> Shrunk:
        """Prune the dense network in place."""
        need("torch_pruning")
        import torch_pruning

        module = task.dense()
        fused = _set_attention(module, "eager")  # as its examples do: it can't follow the fused one
        heads = task.heads(module)
        settings: dict[str, Any] = {"pruning_ratio": level, "round_to": task.width}
        if self.is_global:
            settings |= {"global_pruning": True, "isomorphic": True, "max_pruning_ratio": 0.9}
        if heads:
            settings |= {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": level}
        rank = torch_pruning.importance
        importance: Any = rank.GroupTaylorImportance() if self.is_taylor else rank.GroupMagnitudeImportance(p=2)
        make: Any = torch_pruning.pruner.MagnitudePruner  # its annotations are narrower than what it takes
        pruner = make(
            module,
            example_inputs=task.example(2),
            importance=importance,
            ignored_layers=task.protected(module),
            num_heads=heads,
            **settings,
        )
        if self.is_taylor:
            accumulate_gradients(module, task.calibration(seed), seed)
        pruner.step()
        module.zero_grad()
        task.repair(module)
        _set_attention(module, fused)
        if self.re_estimates:
            re_estimate_norms(module, task.calibration(seed))
        text = ", ".join(f"{key}={value}" for key, value in settings.items())
        shown = "GroupTaylorImportance()" if self.is_taylor else "GroupMagnitudeImportance(p=2)"
        return Shrunk(module.eval(), f"MagnitudePruner({shown}, {text})")


def _set_attention(module: torch.nn.Module, implementation: str | None) -> str | None:
    """Choose how the attention of a network of transformers is computed, where it is one; returns how it was."""
    before: str | None = None
    for layer in module.modules():
        config: Any = getattr(layer, "config", None)
        if hasattr(config, "_attn_implementation"):
            before = before or config._attn_implementation
            config._attn_implementation = implementation
    return before


def accumulate_gradients(module: torch.nn.Module, items: list[Item], seed: int) -> None:
    """Gradients over some batches: of the cross-entropy, or without labels of the outputs times random signs, as ours does."""
    generator = torch.Generator().manual_seed(seed)
    for item in items:
        output = module(*item.inputs)
        if item.target is None:
            signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
            loss = (output * signs).sum() / output.numel()
        else:
            loss = torch.nn.functional.cross_entropy(output, item.target)
        loss.backward()


def re_estimate_norms(module: torch.nn.Module, items: list[Item]) -> None:
    """Set the statistics of batch norms to their means over some batches."""
    norms = [layer for layer in module.modules() if isinstance(layer, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    with torch.no_grad():
        for item in items:
            module(*item.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


PEERS: tuple[Arm, ...] = (
    Pruner("Torch-Pruning, local"),
    Pruner("Torch-Pruning, isomorphic", is_global=True),
    Pruner("Torch-Pruning, taylor, isomorphic", is_global=True, is_taylor=True, draws=True),
    Pruner("Torch-Pruning, local, norms re-estimated", re_estimates=True, draws=True),
)
