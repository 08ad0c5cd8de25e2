"""torch.nn.utils.prune by magnitude, per layer or over all layers, and AdamW or SGD on what its masks let through."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.utils import prune

from tools.bench_quality.finetuning import fine_tune
from tools.bench_sparsity.methods.arm import Arm, Sparse
from tools.bench_sparsity.subject import Subject

__all__ = ["TORCH", "TorchPrune"]


@dataclass
class Masked(Sparse):
    """A network with torch's parametrisation `weight = weight_orig * weight_mask`."""

    module: torch.nn.Module
    layers: tuple[str, ...]
    settings: str
    optimizer: Literal["adamw", "sgd"] = "adamw"

    def finished(self) -> torch.nn.Module:
        """A copy in which the masks are applied for good, as `prune.remove` does."""
        module = copy.deepcopy(self.module)
        for name in self.layers:
            prune.remove(module.get_submodule(name), "weight")
        return module.eval()

    def train(self, subject: Subject, seed: int, rate: float) -> None:
        """Train what the masks let through."""
        fine_tune(subject.task, self.module, seed, subject.lessons(seed), rate=rate, optimizer=self.optimizer)
        self._compute_weights()

    def kept(self) -> dict[str, torch.Tensor]:
        """Copies of all numbers."""
        return {name: tensor.clone() for name, tensor in self.module.state_dict().items()}

    def put_back(self, kept: dict[str, torch.Tensor]) -> None:
        """The same numbers."""
        self.module.load_state_dict(kept)
        self._compute_weights()

    @torch.no_grad()
    def _compute_weights(self) -> None:
        """torch computes `weight` before each call, so that it is one step behind, with a gradient that can't be copied."""
        for name in self.layers:
            layer = self.module.get_submodule(name)
            layer.weight = layer.get_parameter("weight_orig") * layer.get_buffer("weight_mask")


@dataclass(frozen=True)
class TorchPrune(Arm):
    """`l1_unstructured` layer by layer, or `global_unstructured` with L1 over all layers."""

    name: str
    is_global: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"

    def sparsify(self, subject: Subject, ratio: float, seed: int) -> Sparse:
        """Mask the dense network in place."""
        module = subject.task.dense()
        found = [(module.get_submodule(name), "weight") for name in subject.layers]
        with torch.no_grad():
            if self.is_global:
                prune.global_unstructured(found, prune.L1Unstructured, amount=ratio)
            else:
                for layer, parameter in found:
                    prune.l1_unstructured(layer, parameter, amount=ratio)
        text = f"global_unstructured(L1Unstructured, amount={ratio:g})" if self.is_global else f"l1_unstructured(amount={ratio:g})"
        return Masked(module.eval(), subject.layers, text, self.optimizer)


TORCH: tuple[Arm, ...] = (
    TorchPrune("torch prune, local"),
    TorchPrune("torch prune, global", is_global=True),
    TorchPrune("torch prune, local, SGD", optimizer="sgd"),
)
