"""Ways to make a network sparse, by name, in the order of the page."""

from __future__ import annotations

from tools.bench_sparsity.methods.arm import Arm
from tools.bench_sparsity.methods.nncf_prune import NNCF
from tools.bench_sparsity.methods.ours import OURS
from tools.bench_sparsity.methods.torch_prune import TORCH

__all__ = ["ARMS"]

ARMS: dict[str, Arm] = {arm.name: arm for arm in (*OURS, *TORCH, *NNCF)}
