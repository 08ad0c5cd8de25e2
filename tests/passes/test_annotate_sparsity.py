from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphopt.analysis.sparsity_patterns import fitting_pattern
from graphopt.ir.printer import show
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.passes.sparsify.annotate_sparsity import AnnotateSparsity
from graphopt.passes.sparsify.sparsify_magnitude import SparsifyMagnitude
from graphopt.pipeline.manager import PassManager
from tests.support.folding import set_state
from tests.support.sparsifying import network, run_pass, weight_of

W = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))


def of_four(weight: torch.Tensor) -> torch.Tensor:
    return weight * (torch.arange(32) % 4 < 2)


def scattered(weight: torch.Tensor) -> torch.Tensor:
    return weight * (torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) < 0.2)


def blocks(rows: int, columns: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def cut(weight: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(32 // rows, 32 // columns, generator=torch.Generator().manual_seed(2)) < 0.4
        return weight * kept.repeat_interleave(rows, 0).repeat_interleave(columns, 1)

    return cut


@pytest.mark.parametrize(
    ("cut", "pattern", "shape"),
    [
        (of_four, SparsityPattern.N_M, (2, 4)),
        (scattered, SparsityPattern.UNSTRUCTURED, (1, 1)),
        (blocks(4, 1), SparsityPattern.BLOCK, (4, 1)),
        (blocks(1, 8), SparsityPattern.BLOCK, (1, 8)),
        (blocks(4, 4), SparsityPattern.BLOCK, (4, 4)),
    ],
)
def test_patterns_are_told_apart(cut: Callable[[torch.Tensor], torch.Tensor], pattern: SparsityPattern, shape: tuple[int, int]) -> None:
    weight = cut(W)
    found = fitting_pattern(weight)
    assert found is not None
    assert (found.pattern, found.shape) == (pattern, shape)
    assert found.ratio == int((weight == 0).sum()) / weight.numel()


def test_no_zeros_no_pattern() -> None:
    assert fitting_pattern(W) is None


def test_annotating_changes_types_alone() -> None:
    graph = network()
    sparse = weight_of(graph, "fc").clone()
    sparse[:, ::2] = 0
    set_state(graph, "fc.weight", sparse)
    text = show(graph)
    result = PassManager([AnnotateSparsity()], strict=True).run(graph)
    assert show(result.graph) == text.replace("f32[12,8]", "f32[12,8] sparse<2:4 axis=1 0.5>")
    assert weight_of(result.graph, "fc") is sparse
    assert run_pass(AnnotateSparsity(), result.graph).rewritten == 0


def test_wrong_annotations_are_corrected_and_few_zeros_are_not_annotated() -> None:
    graph = network()
    few = weight_of(graph, "grouped").clone()
    few[0] = 0
    set_state(graph, "grouped.weight", few)
    assert dict(run_pass(AnnotateSparsity(), graph).skipped)["grouped"] == "0.0625 of its weights are zero, needs 0.3 (least)"
    run_pass(SparsifyMagnitude(ratio=0.8), graph)
    assert run_pass(AnnotateSparsity(), graph).rewritten == 0
    set_state(graph, "fc.weight", weight_of(network(), "fc"))
    result = run_pass(AnnotateSparsity(), graph)
    assert result.notes == ("fc: dense",)
    assert graph.states["fc.weight"].type.sparsity is None
    assert Sparsity(SparsityPattern.UNSTRUCTURED, 0.8).text == "sparse<unstructured 0.8>"
