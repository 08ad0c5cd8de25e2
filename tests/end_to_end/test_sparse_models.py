"""A real network made sparse, saved, loaded and lowered to kernels that skip the zeros."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision  # pyright: ignore[reportMissingTypeStubs]

import graphopt
from graphopt.analysis import sparsity
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.store import load_graph


def test_resnet18_runs_sparse_kernels_and_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    result = graphopt.optimize(model, ["sparsify-block{ratio=0.8}", "fold-batch-norm"], example_inputs=(x,))
    found = [state for state in sparsity(result.graph) if state.holds is not None]
    assert len(found) == 19
    assert all(state.holds and abs(state.ratio - 0.8) < 0.01 for state in found)
    result.graph.save(tmp_path / "sparse")
    dense = sum(state.elements * 4 for state in sparsity(result.graph))
    assert (tmp_path / "sparse" / "weights.safetensors").stat().st_size < 0.3 * dense
    fast = graphopt.lower(load_graph(tmp_path / "sparse"), target="cpu", measure=False)
    assert isinstance(fast, CpuExecutable)
    steps = [line for line in fast.plan.splitlines() if " sparse" in line]
    assert len(steps) >= 10
    (wanted,) = Interpreter(result.graph).run(x)
    assert float((fast(x) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
