"""Elementwise work in front of the kernel that reads it: what the plans say, and the numbers in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

import graphopt
from graphopt.backends.cuda.lowering import Program, plan_graph
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.planner.choice import Way, first_choice
from graphopt.backends.cuda.planner.measure import alone
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from tests.backends.cuda.running import expect_close, ways_of

SCORES = """\
graph scores(%q: f32[2,5,8], %k: f32[2,8,5], %mask: f32[5,5]) {
  %a: f32[2,5,5] = matmul(%q, %k)
  %b: f32[2,5,5] = mul(%a, 0.25)
  %c: f32[2,5,5] = add(%b, %mask)
  %d: f32[2,5,5] = softmax(%c) {axis=2}
  return %d
}
"""
POOLED = """\
graph pooled(%x: f32[2,3,6,6]) {
  param %weight: f32[4,3,3,3]
  param %bias: f32[4]
  %a: f32[2,4,6,6] = conv2d(%x, %weight, %bias) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
  %b: f32[2,4,6,6] = relu(%a)
  %c: f32[2,4] = mean(%b) {axes=(2, 3), keepdims=false}
  return %c
}
"""
GATED = """\
graph gated(%x: f32[3,24], %gate: f32[3,24]) {
  param %weight: f32[16,24]
  %a: f32[3,24] = silu(%gate)
  %b: f32[3,24] = mul(%a, %x)
  %c: f32[3,16] = linear(%b, %weight, none)
  return %c
}
"""
TWO_LAYERS = """\
graph layers(%x: f32[3,24]) {
  param %first: f32[32,24]
  param %second: f32[16,32]
  %a: f32[3,32] = linear(%x, %first, none)
  %b: f32[3,32] = gelu(%a) {approximate="none"}
  %c: f32[3,16] = linear(%b, %second, none)
  return %c
}
"""
NORMED = """\
graph normed(%x: f32[3,24], %y: f32[3,24]) {
  param %weight: f32[24]
  %a: f32[3,24] = add(%x, %y)
  %b: f32[3,24] = layer_norm(%a, %weight, none) {eps=1e-05, normalized_shape=(24,)}
  return %b
}
"""


def last(ways: Sequence[Way]) -> tuple[int, str]:
    return len(ways) - 1, ""


def planned_with_kernels(graph: Graph, sizes: Mapping[str, int], options: CudaOptions) -> Program:
    return plan_graph(graph, sizes, options, last)


def plan(text: str, kernel: bool = False) -> Program:
    """The plan of a graph; with `kernel` of the last way of each group instead of the first."""
    return plan_graph(graphopt.parse(text), {}, CudaOptions(), last if kernel else first_choice)


def steps(text: str, kernel: bool = False) -> list[str]:
    program = plan(text, kernel)
    assert program.plan is not None
    return [f"{step.work.algorithm}: {step.work.describe()}" for step in program.plan.steps]


def test_softmax_scales_and_masks_the_scores_as_it_reads_them() -> None:
    assert steps(SCORES) == ["library: matmul f32[2,5,8] @ f32[2,8,5]", "softmax: mul + add + softmax over (2) of f32[2,5,5]"]


def test_an_emitted_product_keeps_its_epilogue() -> None:
    assert [step.partition(":")[0] for step in steps(SCORES, kernel=True)] == ["gemm", "softmax"]
    assert "mul + add" in steps(SCORES, kernel=True)[0]


def test_the_map_before_a_global_pool_is_not_written_again() -> None:
    assert steps(POOLED) == [
        "library: convolution 3x3 3->4 @6x6",
        "reduce: add + relu + mean over (2, 3) of f32[2,4,6,6] channels last",
    ]


def test_an_adaptive_pool_to_one_pixel_is_a_mean() -> None:
    pool = "%c: f32[2,4,1,1] = adaptive_avg_pool2d(%b) {output_size=(1, 1)}"
    text = POOLED.replace("%c: f32[2,4] = mean(%b) {axes=(2, 3), keepdims=false}", pool)
    assert steps(text)[1] == "reduce: add + relu + mean over (2, 3) of f32[2,4,6,6] channels last"
    larger = text.replace("[2,4,1,1]", "[2,4,2,1]").replace("(1, 1)}\n  return", "(2, 1)}\n  return")
    assert [step.partition(":")[0] for step in steps(larger)] == ["library", "elementwise", "pool"]


def test_a_sum_before_a_norm() -> None:
    assert steps(NORMED) == ["normalize: add + layer_norm over (1) of f32[3,24]"]


def test_products_have_it_as_a_step_or_in_the_kernel() -> None:
    assert steps(GATED) == ["elementwise: silu + mul f32[3,24]", "library: linear 3 x 24->16"]
    assert steps(GATED, kernel=True) == ["gemm: silu + mul + 3x24 @ 24x16 f32 ieee, tile 16x16x32"]


def test_a_step_of_its_own_and_the_kernel_that_takes_it_are_compared_whole() -> None:
    asked = ways_of(TWO_LAYERS, CudaOptions())
    works = [[work.algorithm for work in way.works] for way in asked[1]]
    assert works == [["elementwise", "library"], ["gemm"]]


def test_ways_are_compared_without_what_rides_in_front_of_the_next_kernel() -> None:
    asked = ways_of(SCORES, CudaOptions())
    assert [[work.algorithm for work in way.works] for way in asked[0]] == [["library"], ["gemm"]]


def test_a_way_that_begins_in_place_is_timed_on_the_same_numbers_in_every_run() -> None:
    asked = ways_of(TWO_LAYERS, CudaOptions())
    first = asked[1][0].works[0]
    assert first.reads[0] == first.writes[0], "gelu works in place"
    plan = alone(asked[1][0], CudaOptions())
    read, written = plan.steps[0].work.reads[0].buffer, plan.steps[0].work.writes[0].buffer
    assert read != written
    assert plan.steps[1].work.reads[0].buffer == written


def test_few_long_rows_get_a_step_of_their_own() -> None:
    def text(rows: int) -> str:
        mean = f"%b: f32[{rows}] = mean(%a) {{axes=(1,), keepdims=false}}"
        return f"graph long(%x: f32[{rows},4096]) {{\n  %a: f32[{rows},4096] = exp(%x)\n  {mean}\n  return %b\n}}\n"

    assert [step.partition(":")[0] for step in steps(text(4))] == ["reduce"]
    assert [step.partition(":")[0] for step in steps(text(63))] == ["elementwise", "reduce"]
    assert [step.partition(":")[0] for step in steps(text(64))] == ["reduce"]


def test_a_chain_is_on_the_operand_of_full_size() -> None:
    text = """\
graph shifted(%m: f32[3,1], %s: f32[3,24]) {
  %a: f32[3,24] = sub(%m, %s)
  %b: f32[3,24] = softmax(%a) {axis=1}
  return %b
}
"""
    program = plan(text)
    assert program.plan is not None
    (step,) = program.plan.steps
    assert step.work.reads[0].buffer == "input1"
    check_numbers(text, "float32", 2e-6)


def test_what_two_read_is_written() -> None:
    text = NORMED.replace("  return %b", "  %c: f32[3,24] = softmax(%a) {axis=1}\n  return %b, %c")
    assert [step.partition(":")[0] for step in steps(text)] == ["elementwise", "normalize", "softmax"]


def test_what_is_returned_is_written() -> None:
    assert [step.partition(":")[0] for step in steps(NORMED.replace("return %b", "return %a, %b"))] == ["elementwise", "normalize"]
    assert [step.partition(":")[0] for step in steps(NORMED.replace("return %b", "return %a"))] == ["elementwise"]


def test_many_full_operands_are_read_once_by_a_step_of_their_own() -> None:
    text = NORMED.replace("%y: f32[3,24])", "%y: f32[3,24], %z: f32[3,24])").replace("layer_norm(%a,", "layer_norm(%z2,")
    text = text.replace("  %b:", "  %z2: f32[3,24] = mul(%a, %z)\n  %b:")
    assert steps(text)[0] == "elementwise: add + mul f32[3,24]"


def test_a_kernel_that_refuses_gets_the_step_first() -> None:
    norm = "vector_norm(%a) {axes=(1,), keepdims=false, ord=3.0}"
    text = f"graph far(%x: f32[3,4]) {{\n  %a: f32[3,4] = relu(%x)\n  %b: f32[3] = {norm}\n  return %b\n}}\n"
    assert steps(text) == ["elementwise: relu f32[3,4]", "torch: vector_norm of f32[3,4]"]


def test_a_step_names_the_values_it_computes() -> None:
    program = plan(SCORES)
    assert program.plan is not None
    assert program.plan.steps[-1].values == ("b", "c", "d")
    assert program.plan.steps[0].values == ("a",)


def check_numbers(text: str, dtype: str, tolerance: float) -> None:
    """The emitted program in Triton's interpreter against the reference."""
    torch.manual_seed(0)
    graph = graphopt.parse(text)
    for state in list(graph.states.values()):
        numbers = torch.randn([int(str(size)) for size in state.type.shape])
        GraphEditor(graph).update_state(replace(state, data=TensorData(numbers)))
    given = [torch.randn([int(str(size)) for size in value.type.shape]) for value in graph.inputs]
    want = graphopt.lower(graph, "reference").run(given)
    expect_close(graphopt.lower(graph, "cuda", device="cpu", dtype=dtype).run(given), want, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float16", 4e-3)])
@pytest.mark.parametrize("text", [SCORES, POOLED, GATED, TWO_LAYERS, NORMED])
def test_numbers(text: str, dtype: str, tolerance: float) -> None:
    check_numbers(text, dtype, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float16", 4e-3)])
@pytest.mark.parametrize("text", [SCORES, GATED, TWO_LAYERS])
def test_numbers_of_emitted_products(text: str, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.backends.cuda.executable.plan_graph", planned_with_kernels)
    check_numbers(text, dtype, tolerance)


READERS = [
    *(f"{op}(%a) {{axes=(1,), keepdims=false}}" for op in ("sum", "mean", "prod", "amax", "amin", "logsumexp")),
    *(f"{op}(%a) {{axes=(1,), correction=1, keepdims=false}}" for op in ("var", "std")),
    *(f"vector_norm(%a) {{axes=(1,), keepdims=false, ord={order}}}" for order in ("2.0", "1.0", "inf")),
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_chain_that_makes_something_of_nothing(reader: str) -> None:
    """Columns beyond the 21 that there are hold zeros, of which exp makes ones and log infinities."""
    for function in ("exp", "log"):
        rising = "  %p: f32[3,21] = exp(%x)\n  %r: f32[3,21] = cumsum(%p) {axis=1}\n"
        body = f"{rising}  %a: f32[3,21] = {function}({'%x' if function == 'exp' else '%r'})\n  %b: f32[3] = {reader}\n"
        text = f"graph g(%x: f32[3,21]) {{\n{body}  return %b\n}}\n"
        assert steps(text)[-1].startswith(f"reduce: {function} + ")
        check_numbers(text, "float32", 5e-6)


@pytest.mark.parametrize(
    "reader",
    [
        "f32[3,21] = softmax(%a) {axis=1}",
        "f32[3,21] = log_softmax(%a) {axis=1}",
        "f32[3,21] = layer_norm(%a, none, none) {eps=1e-05, normalized_shape=(21,)}",
        "f32[3,21] = rms_norm(%a, none) {eps=1e-05, normalized_shape=(21,)}",
    ],
)
def test_rows_of_a_chain_that_makes_something_of_nothing(reader: str) -> None:
    text = f"graph g(%x: f32[3,21]) {{\n  %a: f32[3,21] = exp(%x)\n  %b: {reader}\n  return %b\n}}\n"
    assert "exp + " in steps(text)[0]
    check_numbers(text, "float32", 5e-6)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_product_of_a_chain_that_makes_something_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the 21 columns log makes minus infinity of nothing, and minus infinity times nothing is not a number."""
    text = """\
graph g(%x: f32[3,21]) {
  param %weight: f32[16,21]
  %p: f32[3,21] = exp(%x)
  %r: f32[3,21] = cumsum(%p) {axis=1}
  %a: f32[3,21] = log(%r)
  %b: f32[3,16] = linear(%a, %weight, none)
  return %b
}
"""
    assert steps(text, kernel=True)[-1].startswith("gemm: log + ")
    monkeypatch.setattr("graphopt.backends.cuda.executable.plan_graph", planned_with_kernels)
    check_numbers(text, "float32", 5e-6)


def test_a_step_in_place_stays_in_place_for_a_kernel_that_refuses() -> None:
    text = """\
graph g(%x: f32[3,21], %y: f32[21,5]) {
  %a: f32[3,5] = matmul(%x, %y)
  %b: f32[3,5] = relu(%a)
  %c: f32[3] = vector_norm(%b) {axes=(1,), keepdims=false, ord=3.0}
  return %c
}
"""
    assert [step.partition(":")[0] for step in steps(text)] == ["library", "elementwise", "torch"]
    check_numbers(text, "float32", 2e-6)
