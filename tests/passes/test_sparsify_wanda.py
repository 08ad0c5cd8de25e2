from __future__ import annotations

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError
from graphopt.passes.sparsify.sparsify_wanda import SparsifyWanda
from tests.support.sparsifying import correlated_images, network, run_pass, weight_of


def test_each_output_keeps_the_weights_with_the_largest_share() -> None:
    graph, context = network(), correlated_images()
    run_pass(SparsifyWanda(ratio=0.5, only=("fc",)), graph, context)
    dense = network()
    reads = next(node for node in dense.nodes if node.name == "fc").operands[0]
    assert context.calibration is not None
    seen: list[torch.Tensor] = []
    for batch in context.calibration:
        Interpreter(dense).run(*batch.inputs, on_value=lambda value, tensor: seen.append(tensor) if value is reads else None)
    norms = torch.cat([x.reshape(-1, 8) for x in seen]).norm(dim=0)
    scores = weight_of(dense, "fc").abs() * norms
    kept = weight_of(graph, "fc") != 0
    assert bool((kept.sum(1) == 4).all())
    wanted = torch.zeros_like(kept).scatter_(1, scores.argsort(1)[:, 4:], True)
    assert torch.equal(kept, wanted)
    assert torch.equal(weight_of(graph, "fc")[kept], weight_of(dense, "fc")[kept])


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_patterns_of_grouped_convolutions(pattern: str) -> None:
    graph = network()
    run_pass(SparsifyWanda(pattern=pattern, ratio=0.5), graph, correlated_images())
    new = weight_of(graph, "grouped")
    assert int((new == 0).sum()) == new.numel() // 2
    rows = (new.flatten(1) != 0).sum(1)
    assert int(rows.max() - rows.min()) <= 1


def test_ratios_by_sensitivity_and_a_small_budget_of_zeros() -> None:
    graph = network()
    run_pass(SparsifyWanda(ratio=0.6, ratios="sensitivity"), graph, correlated_images())
    zeros = sum(int((weight_of(graph, name) == 0).sum()) for name in ("grouped", "fc"))
    assert abs(zeros - 0.6 * (16 * 72 + 96)) <= 2
    graph = network()
    result = run_pass(SparsifyWanda(ratio=0.1, pattern="2:4"), graph, correlated_images())
    assert any("more zeros than ratio 0.1 allows" in reason for _, reason in result.skipped)


def test_data_that_is_not_finite() -> None:
    context = correlated_images()
    assert context.calibration is not None
    next(iter(context.calibration)).inputs[0][0, 0, 0, 0] = float("inf")
    with pytest.raises(PassError, match="what 'grouped' reads on calibration data has NaN or infinite values"):
        run_pass(SparsifyWanda(), network(), context)
