"""NNCF 3 (Intel): `nncf.prune` by magnitude, per layer or over all layers, and AdamW on what its masks let through."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from tools.bench_quality.finetuning import fine_tune
from tools.bench_quality.packages import need
from tools.bench_sparsity.methods.arm import Arm, Sparse
from tools.bench_sparsity.subject import Subject

__all__ = ["NNCF", "NNCFPrune"]


class Whole(torch.nn.Module):
    """A network inside of a module: NNCF adds one to what it is given, which `nn.Sequential` would call."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the network gives."""
        return self.network(*inputs)


@dataclass
class Hooked(Sparse):
    """A network on whose parameters NNCF put masks."""

    module: torch.nn.Module
    network: torch.nn.Module
    settings: str

    def finished(self) -> torch.nn.Module:
        """A copy in which the masks are applied for good, as `nncf.strip` does, which needs torchao for this alone."""
        from nncf.torch.function_hook.pruning.magnitude.algo import (  # pyright: ignore[reportMissingImports]  # a peer
            get_pruned_modules,
        )

        module = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, mask in get_pruned_modules(self.module).items():
                module.get_parameter(name.removeprefix("network.")).mul_(mask.binary_mask)
        return module.eval()

    def train(self, subject: Subject, seed: int, rate: float) -> None:
        """Train what the masks let through."""
        fine_tune(subject.task, self.module, seed, subject.lessons(seed), rate=rate)

    def kept(self) -> dict[str, torch.Tensor]:
        """Copies of all numbers."""
        return {name: tensor.clone() for name, tensor in self.module.state_dict().items()}

    def put_back(self, kept: dict[str, torch.Tensor]) -> None:
        """The same numbers."""
        self.module.load_state_dict(kept)


@dataclass(frozen=True)
class NNCFPrune(Arm):
    """UNSTRUCTURED_MAGNITUDE_LOCAL or _GLOBAL, which ranks weights by size over their layer's norm."""

    name: str
    mode: str

    def sparsify(self, subject: Subject, ratio: float, seed: int) -> Sparse:
        """Mask the dense network.

        Raises:
            MissingDataError: NNCF is not installed.
        """
        need("nncf")
        import nncf  # pyright: ignore[reportMissingImports]

        module, example = Whole(subject.task.dense()).eval(), subject.task.example(2)
        taken = {f"network.{name}.weight" for name in subject.layers}
        others = [name for name, parameter in module.named_parameters() if name not in taken and parameter.dim() > 1]
        given: Any = example[0] if len(example) == 1 else example
        masked = nncf.prune(
            module,
            mode=nncf.PruneMode[self.mode],
            ratio=ratio,
            ignored_scope=nncf.IgnoredScope(names=others),
            examples_inputs=given,
        )
        return Hooked(masked.eval(), module.network, f"nncf.prune(mode={self.mode}, ratio={ratio:g})")


NNCF: tuple[Arm, ...] = (
    NNCFPrune("NNCF, local", "UNSTRUCTURED_MAGNITUDE_LOCAL"),
    NNCFPrune("NNCF, global", "UNSTRUCTURED_MAGNITUDE_GLOBAL"),
)
