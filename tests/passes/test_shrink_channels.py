from __future__ import annotations

from typing import Any

import pytest
import torch

import graphopt
from graphopt.analysis.sparsity import annotation_holds
from graphopt.backends.cpu.planner.makers.sparse import WORTHWHILE
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.passes.shrink.compensation import METHODS as COMPENSATIONS
from graphopt.passes.shrink.importance import METHODS as IMPORTANCES
from graphopt.passes.shrink.shrink_channels import ShrinkChannels
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.options import option_types
from graphopt.pipeline.registry import find
from graphopt.rewrite.cut import replay
from tests.support.folding import filled, largest_difference, set_state

CONV = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
BEFORE = f"""graph g(%x: f32[2,3,4,4]) {{
  param %stem.weight: f32[8,3,1,1]
  param %body.weight: f32[6,8,1,1]
  param %body.bias: f32[6]
  param %head.weight: f32[5,6]
  %stem: f32[2,8,4,4] = conv2d(%x, %stem.weight, none) {CONV}
  %act: f32[2,8,4,4] = relu(%stem)
  %body: f32[2,6,4,4] = conv2d(%act, %body.weight, %body.bias) {CONV}
  %pool: f32[2,6] = mean(%body) {{axes=(2, 3), keepdims=false}}
  %head: f32[2,5] = linear(%pool, %head.weight, none)
  return %head
}}
"""
AFTER = f"""graph g(%x: f32[2,3,4,4]) {{
  param %stem.weight: f32[4,3,1,1]
  param %body.weight: f32[3,4,1,1]
  param %body.bias: f32[3]
  param %head.weight: f32[5,3]
  %stem: f32[2,4,4,4] = conv2d(%x, %stem.weight, none) {CONV}
  %act: f32[2,4,4,4] = relu(%stem)
  %body: f32[2,3,4,4] = conv2d(%act, %body.weight, %body.bias) {CONV}
  %pool: f32[2,3] = mean(%body) {{axes=(2, 3), keepdims=false}}
  %head: f32[2,5] = linear(%pool, %head.weight, none)
  return %head
}}
"""


def _run(graph: Graph, context: Context | None = None, **options: Any) -> Any:
    result = PassManager([ShrinkChannels(**options)], strict=True, context=context).run(graph)
    verify(result.graph)
    return result


def _calibration(batches: int = 2) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    return Calibration([Batch((torch.randn(2, 3, 4, 4, generator=generator),), torch.tensor([1, 2])) for _ in range(batches)])


def test_half_the_channels_of_each_group_go() -> None:
    result = _run(filled(BEFORE), ratio=0.5)
    assert str(result.graph) == AFTER
    (record,) = result.records
    assert record.rewritten == 7
    assert record.notes == ("stem: 8 -> 4 channels", "body: 6 -> 3 channels")
    assert record.skipped == (
        ("stem.weight axis 1", "it is an axis of the input %x"),
        ("head.weight axis 0", "it is an axis of the output %head"),
    )


def test_the_least_important_channels_go() -> None:
    graph = filled(BEFORE)
    weight = torch.ones(8, 3, 1, 1)
    weight[[0, 3, 4, 7]] = 0.01
    set_state(graph, "stem.weight", weight)
    set_state(graph, "body.weight", torch.ones(6, 8, 1, 1))
    result = _run(graph, ratio=0.5, only=("stem",))
    assert result.shrinks[0].states["stem.weight"] == ((0, (1, 2, 5, 6)),)
    assert result.shrinks[0].states["body.weight"] == ((1, (1, 2, 5, 6)),)


def test_it_is_found_by_name_and_reads_its_options_from_text() -> None:
    assert find("shrink-channels") is ShrinkChannels
    text = 'shrink-channels{ratio=0.25, importance="l1", ratios=(("body", 0.5),), exclude=("stem",), steps=2}'
    result = graphopt.optimize(filled(BEFORE), [text], strict=True)
    assert result.pipeline.records[0].notes == ("body: 6 -> 3 channels",)
    assert result.pipeline.records[0].skipped[0] == ("stem", "excluded by 'stem'")
    assert result.pipeline.records[0].spec == text


@pytest.mark.parametrize("ranking", ["global", "isomorphic"])
def test_rankings_remove_the_share_of_all(ranking: str) -> None:
    (record,) = _run(filled(BEFORE), ratio=0.5, ranking=ranking).records
    assert record.rewritten == 7


def test_widths_are_multiples() -> None:
    result = _run(filled(BEFORE), ratio=0.4, multiple_of=4)
    assert result.records[0].notes == ("stem: 8 -> 4 channels", "body: 6 -> 4 channels")


def test_widths_that_fill_no_whole_vectors_any_more_are_pointed_out() -> None:
    text = BEFORE.replace("f32[8,3,1,1]", "f32[32,3,1,1]").replace("f32[6,8,1,1]", "f32[6,32,1,1]").replace("f32[2,8,4,4]", "f32[2,32,4,4]")
    assert _run(filled(text), ratio=0.3).records[0].notes == (
        "stem: 32 -> 22 channels",
        "body: 6 -> 4 channels",
        "1 of 2 widths was a multiple of 8 and is no longer (stem: 22): runtimes compute in whole vectors, so that this may be "
        "slower than before; multiple_of=8 keeps it",
    )
    assert _run(filled(text), ratio=0.3, multiple_of=8).records[0].notes == ("stem: 32 -> 24 channels",)


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_a_schedule_ends_at_the_same_widths_and_can_be_replayed(steps: int) -> None:
    graph = filled(BEFORE)
    told: list[tuple[str, float]] = []
    context = Context(progress=lambda what, fraction: told.append((what, fraction)))
    result = _run(graph.clone(), context, ratio=0.5, steps=steps)
    assert str(result.graph) == AFTER
    assert result.records[0].rewritten == 7
    assert (f"shrink-channels: cut {steps} of {steps}", 1.0) in told
    for record in result.shrinks:
        graph = replay(graph, record)
    assert largest_difference(result.graph, graph) == 0


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({"ratio": 0.5, "multiple_of": 4}, ("stem: 8 -> 4 channels", "body: 6 -> 4 channels")),
        ({"ratio": 0.95, "only": ("stem", "body")}, ("stem: 8 -> 1 channels", "body: 6 -> 1 channels")),
    ],
)
def test_a_schedule_may_be_done_before_its_last_step(options: dict[str, Any], notes: tuple[str, ...]) -> None:
    assert set(_run(filled(BEFORE), steps=9, **options).records[0].notes) == set(notes)


def test_random_importance_follows_the_seed() -> None:
    kept = [_run(filled(BEFORE), Context(seed=seed), ratio=0.5, importance="random").shrinks for seed in (1, 1, 2)]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("importance", ["taylor", "hessian", "activation"])
def test_importance_from_data(importance: str) -> None:
    assert str(_run(filled(BEFORE), Context(calibration=_calibration()), ratio=0.5, importance=importance).graph) == AFTER
    with pytest.raises(PassError, match=f"importance '{importance}' needs calibration data and there is none"):
        ShrinkChannels(ratio=0.5, importance=importance).run(filled(BEFORE))  # pyright: ignore[reportArgumentType]


def test_compensation_brings_outputs_nearer_or_says_that_it_has_no_data() -> None:
    graph = filled(BEFORE)
    plain = _run(graph.clone(), Context(calibration=_calibration(8)), ratio=0.25)
    mended = _run(graph.clone(), Context(calibration=_calibration(8)), ratio=0.25, compensation="least-squares")
    assert largest_difference(graph, mended.graph) < largest_difference(graph, plain.graph)
    without = _run(graph.clone(), ratio=0.25, compensation="bias")
    assert any("'bias' needs calibration data" in note for note in without.records[0].notes)


def test_options_name_the_methods_that_there_are() -> None:
    hints = option_types(ShrinkChannels)
    assert hints["importance"].__args__ == IMPORTANCES
    assert hints["compensation"].__args__ == COMPENSATIONS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"option 'ratio' of shrink-channels is 1\.0, needs a number above 0 and below 1\n.*\n  fix: it is the fraction"),
        ({"ratio": 0.0}, r"option 'ratio' of shrink-channels is 0\.0, needs a number above 0 and below 1"),
        (
            {"ratio": 0.5, "ratios": (("stem", 1.0),)},
            r"option 'ratios' of shrink-channels has 1\.0 for 'stem', needs a number of at least 0",
        ),
        (
            {"ratio": 0.5, "importance": "l3"},
            r"option 'importance' of shrink-channels is \"l3\", needs one of \"l1\", \"l2\", \"bn-scale\"",
        ),
        ({"ratio": 0.5, "steps": 0}, r"option 'steps' of shrink-channels is 0, needs a number >= 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassOptionError, match=message):
        ShrinkChannels(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ("*",)}, r"nothing is left to cut of 2 groups, for example body: excluded by '\*'"),
        ({"only": ("steam",)}, r"'steam' in only is the name of no layer and no group\n  fix: near names: stem"),
        ({"only": ("head",)}, r"'head' in only means only layers that can't be cut: head: it is an axis of the output %head"),
    ],
)
def test_wishes_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassOptionError, match=message):
        ShrinkChannels(ratio=0.5, **options).run(filled(BEFORE))


def test_the_module_trains_under_the_original_names() -> None:
    graph = filled(BEFORE)
    module = _run(graph, ratio=0.5).graph.to_module()
    assert list(module.state_dict()) == list(graph.to_module().state_dict())
    module(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


SPARSE = """graph g(%x: f32[16,12]) {
  param %first.weight: f32[16,12]
  param %first.bias: f32[16]
  param %body.weight: f32[32,16]
  param %body.bias: f32[32]
  param %next.weight: f32[24,32]
  param %next.bias: f32[24]
  param %head.weight: f32[5,24]
  param %head.bias: f32[5]
  %first: f32[16,16] = linear(%x, %first.weight, %first.bias)
  %a: f32[16,16] = relu(%first)
  %body: f32[16,32] = linear(%a, %body.weight, %body.bias)
  %b: f32[16,32] = relu(%body)
  %next: f32[16,24] = linear(%b, %next.weight, %next.bias)
  %c: f32[16,24] = relu(%next)
  %head: f32[16,5] = linear(%c, %head.weight, %head.bias)
  return %head
}
"""


def _numbers(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.tensor()


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("compensation", COMPENSATIONS)
@pytest.mark.parametrize("sparsify", ["sparsify-magnitude{ratio=0.6}", "sparsify-n-m{}", "sparsify-block{ratio=0.6}"])
def test_zeros_of_sparse_weights_outlast_cut_and_compensation(sparsify: str, compensation: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(16, 12, generator=generator) for _ in range(4)]
    sparse = graphopt.optimize(filled(SPARSE), [sparsify], calibration=data, check="off", strict=True).graph
    text = f'shrink-channels{{ratio=0.5, compensation="{compensation}", steps={steps}}}'
    result = graphopt.optimize(sparse, [text], calibration=data, check="off", strict=True)
    plain = sparse
    for record in result.shrinks:
        plain = replay(plain, record)
    for name in ("body.weight", "next.weight"):
        annotation = result.graph.states[name].type.sparsity
        assert annotation is not None
        assert annotation == plain.states[name].type.sparsity
        assert annotation.ratio >= WORTHWHILE  # for sparse kernels of the CPU backend
        assert annotation_holds(_numbers(result.graph, name), annotation)
        assert torch.equal(_numbers(result.graph, name) == 0, _numbers(plain, name) == 0)
    fitted = [name for name in plain.states if not torch.equal(_numbers(result.graph, name), _numbers(plain, name))]
    biases = ["body.bias", "next.bias", "head.bias"]
    assert fitted == {"none": [], "bias": biases, "least-squares": ["body.bias", "next.bias", "head.weight", "head.bias"]}[compensation]
