"""NNCF 3 (Intel): `nncf.prune` by magnitude, per layer or over all layers, AdamW, `nncf.strip`."""

from __future__ import annotations

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
    settings: str

    def finished(self) -> torch.nn.Module:
        """A copy in which the masks are applied for good."""
        import nncf  # pyright: ignore[reportMissingImports]  # a peer, fetched for this benchmark only

        return nncf.strip(self.module, do_copy=True, strip_format=nncf.StripFormat.IN_PLACE).network.eval()

    def tune(self, subject: Subject, seed: int) -> None:
        """Train what the masks let through."""
        fine_tune(subject.task, self.module, seed, subject.lessons(seed))


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
        return Hooked(masked.eval(), f"nncf.prune(mode={self.mode}, ratio={ratio:g})")


NNCF: tuple[Arm, ...] = (
    NNCFPrune("NNCF, local", "UNSTRUCTURED_MAGNITUDE_LOCAL"),
    NNCFPrune("NNCF, global", "UNSTRUCTURED_MAGNITUDE_GLOBAL"),
)
