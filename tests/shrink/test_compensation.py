"""Compensation where the right answer is known: dependent channels, constant channels, statistics."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.compensation import compensate, compensate_layers
from graphopt.passes.shrink.compensation.sequence import Compensation
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.rewrite.rewriter import Rewriter
from tests.support.compensating import calibration_of, context_of, cut, numbers_of, relative_difference
from tests.support.folding import filled, set_state
from tests.support.groups import hand_made_group

PLAIN = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"


NETWORK = """graph g(%x: f64[n,3,9,9]) where n in [1, 64] {{
  param %w1: f64[8,3,3,3]
  param %b1: f64[8]
  param %w2: f64[{out},{inner},3,3]
  param %b2: f64[{out}]
  %a: f64[n,8,7,7] = conv2d(%x, %w1, %b1) {plain}
  %r: f64[n,8,7,7] = tanh(%a)
  %y: f64[n,{out},{size}] = conv2d(%r, %w2, %b2) {attrs}
  return %y
}}"""
CHANNELS = [("w1", 0, "written"), ("b1", 0, "written"), ("a", 1, "carried"), ("r", 1, "carried"), ("w2", 1, "read")]


def _pairs(graph: Graph, first: Sequence[int], second: Sequence[int]) -> None:
    """Make channels `second` copies of `first`."""
    for name in ("w1", "b1"):
        numbers = numbers_of(graph, name).clone()
        numbers[list(second)] = numbers[list(first)]
        set_state(graph, name, numbers)


@pytest.mark.parametrize(
    ("attrs", "size"),
    [
        (PLAIN, "5,5"),
        ("{dilation=(1, 1), groups=1, padding=(1, 2), stride=(2, 3)}", "4,3"),
        ("{dilation=(2, 1), groups=1, padding=(1, 0), stride=(1, 1)}", "5,5"),
    ],
)
def test_a_convolution_takes_over_what_its_copies_did(attrs: str, size: str) -> None:
    graph = filled(NETWORK.format(out=5, inner=8, size=size, plain=PLAIN, attrs=attrs))
    _pairs(graph, [0, 2, 4, 6], [1, 3, 5, 7])
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [1, 3, 5, 7])
    assert relative_difference(before, graph, (2, 3, 9, 9)) > 0.1
    (note,) = compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "least-squares")
    assert note.startswith("compensation (least-squares) of 1 layer: outputs on held-out samples are off by ")
    assert relative_difference(before, graph, (2, 3, 9, 9)) < 1e-8
    wanted = numbers_of(before, "w2")[:, ::2] + numbers_of(before, "w2")[:, 1::2]
    torch.testing.assert_close(numbers_of(graph, "w2"), wanted, rtol=1e-7, atol=1e-7)


def test_grouped_convolutions_are_fitted_group_by_group() -> None:
    attrs = PLAIN.replace("groups=1", "groups=2")
    graph = filled(NETWORK.format(out=6, inner=4, size="5,5", plain=PLAIN, attrs=attrs))
    _pairs(graph, [0, 4], [1, 5])
    written = [(value, axis, role, [0, 1, 2, 3] * 2) for value, axis, role in CHANNELS[:4]]
    members = [*written, ("w2", 1, "read", [0, 1, 2, 3])]
    before, record = cut(graph, hand_made_group(graph, "a", 4, members), [1])
    compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "least-squares")
    assert relative_difference(before, graph, (2, 3, 9, 9)) < 1e-8


def test_depthwise_convolutions_lose_rows_and_need_nothing() -> None:
    graph = filled(f"""graph g(%x: f64[n,3,9,9]) where n in [1, 64] {{
  param %w1: f64[6,3,1,1]
  param %d: f64[6,1,3,3]
  param %w2: f64[2,6,1,1]
  %a: f64[n,6,9,9] = conv2d(%x, %w1, none) {PLAIN}
  %k: f64[n,6,7,7] = conv2d(%a, %d, none) {PLAIN.replace("groups=1", "groups=6")}
  %y: f64[n,2,7,7] = conv2d(%k, %w2, none) {PLAIN}
  return %y
}}""")
    for name in ("w1", "d"):
        numbers = numbers_of(graph, name).clone()
        numbers[5] = numbers[0]
        set_state(graph, name, numbers)
    depthwise = numbers_of(graph, "d")
    members = [("w1", 0, "written"), ("a", 1, "carried"), ("d", 0, "scaled"), ("k", 1, "carried"), ("w2", 1, "read")]
    before, record = cut(graph, hand_made_group(graph, "a", 6, members), [5])
    compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "least-squares")
    assert relative_difference(before, graph, (2, 3, 9, 9)) < 1e-8
    assert torch.equal(numbers_of(graph, "d"), depthwise[:5])


LINEARS = """graph g(%x: f64[n,4,6]) where n in [1, 64] {
  param %w1: f64[8,6]
  param %w2: f64[8,5]
  param %w3: f64[3,5]
  param %b3: f64[3]
  %a: f64[n,4,8] = linear(%x, %w1, none)
  %m: f64[n,4,5] = matmul(%a, %w2)
  %t: f64[n,4,5] = gelu(%m) {approximate="none"}
  %y: f64[n,4,3] = linear(%t, %w3, %b3)
  return %y
}"""
NEURONS = [("w1", 0, "written"), ("a", 2, "carried"), ("w2", 0, "read")]


def test_linear_layers_and_products_with_a_weight() -> None:
    """Eight channels of a map from six are linearly dependent: any six that span them are enough."""
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    assert relative_difference(before, graph, (4, 4, 6)) > 0.1
    compensate(Rewriter(graph), before, record, context_of((16, 4, 6)), "least-squares")
    assert relative_difference(before, graph, (4, 4, 6)) < 1e-7
    assert torch.equal(numbers_of(graph, "w3"), numbers_of(before, "w3"))


@pytest.mark.parametrize("method", ["bias", "least-squares"])
def test_a_batch_norm_over_another_axis_takes_nothing_out(method: str) -> None:
    """BatchNorm1d behind a linear layer on [batch, tokens, features] normalises over tokens; its scale is none of the layer's channels."""
    graph = filled("""graph g(%x: f64[n,4,6]) where n in [1, 64] {
  param %w0: f64[6,6]
  param %w1: f64[6,6]
  param %g: f64[4]
  param %s: f64[4]
  buffer %mean: f64[4]
  buffer %var: f64[4]
  %a: f64[n,4,6] = linear(%x, %w0, none)
  %b: f64[n,4,6] = linear(%a, %w1, none)
  %c: f64[n,4,6] = batch_norm(%b, %g, %s, %mean, %var) {eps=0.001, mode="eval", momentum=0.1}
  %y: f64[n,4,6] = add(%c, %a)
  return %y
}""")
    before = graph.clone()
    set_state(graph, "w0", numbers_of(graph, "w0") * 0.9)
    plain = relative_difference(before, graph, (64, 4, 6))
    compensate_layers(Rewriter(graph), before, {}, context_of((64, 4, 6), batches=8), method)
    assert relative_difference(before, graph, (64, 4, 6)) < plain


@pytest.mark.parametrize(("samples", "batches"), [(1, 48), (24, 2), (24, 1)])
def test_many_batches_of_one_sample_and_few_large_ones(samples: int, batches: int) -> None:
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    compensate(Rewriter(graph), before, record, context_of((samples, 4, 6), batches=batches), "least-squares")
    assert relative_difference(before, graph, (4, 4, 6)) < 1e-7


def test_inputs_without_a_batch_are_a_row_each() -> None:
    graph = filled("""graph g(%x: f64[6]) {
  param %w1: f64[8,6]
  param %w2: f64[5,8]
  param %b2: f64[5]
  %a: f64[8] = linear(%x, %w1, none)
  %y: f64[5] = linear(%a, %w2, %b2)
  return %y
}""")
    before, record = cut(graph, hand_made_group(graph, "a", 8, [("w1", 0, "written"), ("a", 0, "carried"), ("w2", 1, "read")]), [2, 5])
    compensate(Rewriter(graph), before, record, context_of((6,), batches=48), "least-squares")
    assert relative_difference(before, graph, (6,)) < 1e-7


def test_a_single_sample_has_nothing_to_hold_out_but_positions() -> None:
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    rows = context_of((1, 4, 6), batches=1)
    notes = compensate(Rewriter(graph), before, record, rows, "least-squares")
    assert notes[0].startswith("compensation (least-squares)"), notes


def test_later_layers_see_and_mend_the_errors_of_earlier_ones() -> None:
    """What least squares could not restore in %m goes on, and %w3 is fitted to what really arrives."""
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    plain = relative_difference(before, graph, (32, 4, 6))
    half = graph.clone()
    notes = compensate(Rewriter(graph), before, record, context_of((48, 4, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 2 layers")
    both = relative_difference(before, graph, (32, 4, 6))
    set_state(half, "w2", numbers_of(graph, "w2"))
    one = relative_difference(before, half, (32, 4, 6))
    assert both < one < plain


def test_data_without_rows_to_spare_changes_nothing_for_the_worse() -> None:
    """Two samples can't say much about eight inputs: the held-out one decides, and the outputs do not get worse on it."""
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    context = context_of((2, 4, 6), batches=1)
    plain = graph.clone()
    compensate(Rewriter(graph), before, record, context, "least-squares")
    (x,) = next(iter(calibration_of(context))).inputs
    old, without, with_ = (Interpreter(g, precise=True).run(x)[0][1:] for g in (before, plain, graph))
    assert float((with_ - old).norm()) <= float((without - old).norm())


@pytest.mark.parametrize("method", ["bias", "least-squares"])
def test_a_constant_channel_goes_into_the_bias(method: str) -> None:
    graph = filled(NETWORK.format(out=5, inner=8, size="5,5", plain=PLAIN, attrs=PLAIN))
    numbers = numbers_of(graph, "w1").clone()
    numbers[3] = 0
    set_state(graph, "w1", numbers)
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), method)  # pyright: ignore[reportArgumentType]
    assert relative_difference(before, graph, (2, 3, 9, 9)) < 1e-12
    wanted = numbers_of(before, "b2") + numbers_of(before, "w2")[:, 3].sum((1, 2)) * numbers_of(before, "b1")[3].tanh()
    torch.testing.assert_close(numbers_of(graph, "b2"), wanted)
    assert torch.equal(numbers_of(graph, "w2"), numbers_of(before, "w2")[:, [0, 1, 2, 4, 5, 6, 7]])


NORMED = f"""graph g(%x: f64[n,3,9,9]) where n in [1, 64] {{
  param %w1: f64[8,3,3,3]
  param %b1: f64[8]
  param %w2: f64[5,8,3,3]
  param %gamma: f64[5]
  param %beta: f64[5]
  buffer %mean: f64[5]
  buffer %var: f64[5]
  %a: f64[n,8,7,7] = conv2d(%x, %w1, %b1) {PLAIN}
  %r: f64[n,8,7,7] = tanh(%a)
  %c: f64[n,5,5,5] = conv2d(%r, %w2, none) {PLAIN}
  %y: f64[n,5,5,5] = batch_norm(%c, %gamma, %beta, %mean, %var) {{eps=1e-05, mode="follow", momentum=0.1}}
  return %y
}}"""


def test_statistics_of_batch_norms_are_those_of_what_they_read_now() -> None:
    graph = filled(NORMED)
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [0, 3, 4, 7])
    context = context_of((8, 3, 9, 9))
    plain = relative_difference(before, graph, (16, 3, 9, 9))
    compensate(Rewriter(graph), before, record, context, "least-squares")
    assert relative_difference(before, graph, (16, 3, 9, 9)) < plain
    seen: list[torch.Tensor] = []
    for batch in calibration_of(context):
        Interpreter(graph).run(*batch.inputs, on_value=lambda value, tensor: seen.append(tensor) if value.name == "c" else None)
    var, mean = torch.var_mean(torch.cat(seen), (0, 2, 3))
    torch.testing.assert_close(numbers_of(graph, "mean"), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(numbers_of(graph, "var"), var, rtol=1e-12, atol=1e-12)


def test_a_batch_norm_behind_a_layer_without_bias_takes_its_mean() -> None:
    graph = filled(NORMED)
    _pairs(graph, [0, 2], [1, 3])
    numbers = numbers_of(graph, "w1").clone()
    numbers[7] = 0  # and a constant channel, which only a bias could restore
    set_state(graph, "w1", numbers)
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [1, 3, 7])
    compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "least-squares")
    assert relative_difference(before, graph, (2, 3, 9, 9)) < 1e-8


def test_bias_correction_moves_the_shift_of_a_batch_norm() -> None:
    graph = filled(NORMED)
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    notes = compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "bias")
    assert notes[0].startswith("compensation (bias) of 1 layer: ")
    changed = {
        name
        for name in graph.states
        if name in ("gamma", "beta", "mean", "var") and not torch.equal(numbers_of(graph, name), numbers_of(before, name))
    }
    assert changed == {"beta"}


def test_batch_norms_that_train_are_left_alone() -> None:
    graph = filled(NORMED.replace("follow", "train"))
    before, record = cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    notes = compensate(Rewriter(graph), before, record, context_of((8, 3, 9, 9)), "bias")
    assert notes == ("not compensated, it has no bias: %c", "not compensated, it uses the statistics of each batch: %y")


RESIDUAL = """graph g(%x: f64[n,6]) where n in [1, 64] {
  param %w0: f64[6,6]
  param %w1: f64[8,6]
  param %w2: f64[6,8]
  param %b2: f64[6]
  %s: f64[n,6] = linear(%x, %w0, none)
  %a: f64[n,8] = linear(%s, %w1, none)
  %r: f64[n,8] = tanh(%a)
  %b: f64[n,6] = linear(%r, %w2, %b2)
  %d: f64[n,6] = dropout(%b) {mode="follow", p=0.1}
  %y: f64[n,6] = add(%d, %s)
  return %y
}"""


def test_the_last_layer_of_a_branch_takes_on_the_error_of_the_shortcut() -> None:
    errors: list[float] = []
    for text in (RESIDUAL, RESIDUAL.replace("return %y", "return %y, %b")):  # where others read %b, it has to stay what it was
        graph = filled(text)
        before = graph.clone()
        set_state(graph, "w0", numbers_of(graph, "w0") * 0.9)
        notes = compensate_layers(Rewriter(graph), before, {}, context_of((64, 6), batches=8), "least-squares")
        assert notes[0].startswith("compensation (least-squares) of 2 layers: ")
        errors.append(relative_difference(before, graph, (64, 6)))
    assert errors[0] < 0.8 * errors[1], errors


def test_a_bias_that_is_added_behind_a_product_is_one() -> None:
    """As in GPT-2: what is added to a product with a weight is fitted, and the shortcut is found behind it."""
    products = RESIDUAL.replace("%w1: f64[8,6]", "%w1: f64[6,8]").replace("%w2: f64[6,8]", "%w2: f64[8,6]")
    products = products.replace("linear(%s, %w1, none)", "matmul(%s, %w1)")
    products = products.replace("%b: f64[n,6] = linear(%r, %w2, %b2)", "%m: f64[n,6] = matmul(%r, %w2)\n  %b: f64[n,6] = add(%m, %b2)")
    errors: dict[str, float] = {}
    for text, method in (
        (products, "bias"),
        (products, "least-squares"),
        (products.replace("return %y", "return %y, %b"), "least-squares"),
    ):
        graph = filled(text)
        before = graph.clone()
        set_state(graph, "w0", numbers_of(graph, "w0") * 0.9)
        compensate_layers(Rewriter(graph), before, {}, context_of((64, 6), batches=8), method)
        assert not torch.equal(numbers_of(graph, "b2"), numbers_of(before, "b2"))
        errors[f"{method} {len(graph.outputs)}"] = relative_difference(before, graph, (64, 6))
    assert errors["least-squares 1"] < 0.8 * errors["least-squares 2"], errors


def test_a_shared_bias_behind_products_is_called_a_bias() -> None:
    graph = filled("""graph g(%x: f64[n,6]) where n in [1, 64] {
  param %w0: f64[8,6]
  param %w1: f64[8,8]
  param %w2: f64[8,8]
  param %b: f64[8]
  %s: f64[n,8] = linear(%x, %w0, none)
  %m: f64[n,8] = matmul(%s, %w1)
  %p: f64[n,8] = add(%m, %b)
  %t: f64[n,8] = tanh(%p)
  %k: f64[n,8] = matmul(%t, %w2)
  %y: f64[n,8] = add(%b, %k)
  return %y
}""")
    before = graph.clone()
    set_state(graph, "w0", numbers_of(graph, "w0") * 0.9)
    notes = compensate_layers(Rewriter(graph), before, {}, context_of((64, 6), batches=8), "bias")
    assert any("its bias is shared: %m, %k" in note for note in notes), notes


def test_layers_that_can_not_be_fitted_say_why() -> None:
    graph = filled("""graph g(%x: f64[n,6]) where n in [1, 64] {
  param %w1: f64[8,6]
  param %w2: f64[8,8]
  param %w3: f64[8,8]
  param %v: f64[8,8]
  param %g: f64[8,1]
  %a: f64[n,8] = linear(%x, %w1, none)
  %p: f64[n,8] = tanh(%a)
  %b: f64[n,8] = linear(%p, %w2, none)
  %c: f64[n,8] = linear(%b, %w2, none)
  %w: f64[8,8] = weight_norm(%v, %g) {axis=0}
  %y: f64[n,8] = linear(%c, %w, none)
  %t: f64[n,8] = linear(%y, %w3, none)
  return %t
}""")
    before = graph.clone()
    set_state(graph, "w1", numbers_of(graph, "w1") * 0.5)
    notes = compensate_layers(Rewriter(graph), before, {}, context_of((32, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 1 layer: ")
    assert notes[1:] == (
        "not compensated, its weight is shared: %b, %c",
        "not compensated, its weight is computed at run time: %y",
    )


def test_sparse_weights_keep_their_zeros() -> None:
    graph = filled(LINEARS.replace("param %w3: f64[3,5]", "param %w3: f64[3,5] sparse<unstructured 0.5>"))
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    notes = compensate(Rewriter(graph), before, record, context_of((48, 4, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 2 layers: ")
    assert torch.equal(numbers_of(graph, "w3"), numbers_of(before, "w3"))
    assert not torch.equal(numbers_of(graph, "b3"), numbers_of(before, "b3"))


def test_transposed_convolutions_get_another_bias() -> None:
    graph = filled(f"""graph g(%x: f64[n,3,5,5]) where n in [1, 64] {{
  param %w1: f64[8,3,1,1]
  param %b1: f64[8]
  param %up: f64[8,4,2,2]
  param %b2: f64[4]
  %a: f64[n,8,5,5] = conv2d(%x, %w1, %b1) {PLAIN}
  %y: f64[n,4,10,10] = conv_transpose2d(%a, %up, %b2) {{dilation=(1, 1), groups=1, output_padding=(0, 0), padding=(0, 0), stride=(2, 2)}}
  return %y
}}""")
    members = [("w1", 0, "written"), ("b1", 0, "written"), ("a", 1, "carried"), ("up", 0, "read")]
    before, record = cut(graph, hand_made_group(graph, "a", 8, members), [0, 6])
    notes = compensate(Rewriter(graph), before, record, context_of((8, 3, 5, 5)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 1 layer: ")
    assert torch.equal(numbers_of(graph, "up"), numbers_of(before, "up")[[1, 2, 3, 4, 5, 7]])


def test_progress_and_memory_are_kept_to() -> None:
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    seen: list[str] = []

    def progress(what: str, _: float) -> None:
        seen.append(what)

    calibration = calibration_of(context_of((16, 4, 6)))
    work = Compensation(Rewriter(graph), before, record.states, calibration, "least-squares", progress=progress, limit=1)
    notes = work.run()
    assert notes[1] == "3 calibration batches were not used for compensation: they need more than 1 byte"
    assert seen == ["compensate m, 1 of 2", "compensate y, 2 of 2"]
    assert relative_difference(before, graph, (4, 4, 6)) < 1e-7


def test_without_data_or_method() -> None:
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    rewriter = Rewriter(graph)
    assert compensate(rewriter, before, record, context_of((4, 4, 6)), "none") == ()
    assert compensate(rewriter, before, record, Context(), "bias") == (
        "no compensation: 'bias' needs calibration data, pass it as optimize(..., calibration=loader)",
    )
    with pytest.raises(PassOptionError, match="compensation is 'ols', needs one of none, bias, least-squares"):
        compensate_layers(rewriter, before, record.states, Context(), "ols")
    assert torch.equal(numbers_of(graph, "w2"), numbers_of(before, "w2")[[0, 1, 3, 4, 5, 6, 7]])


def test_data_with_nan_changes_nothing() -> None:
    graph = filled(LINEARS)
    before, record = cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    context = Context(calibration=Calibration([Batch((torch.full((8, 4, 6), torch.nan, dtype=torch.float64),))]))
    assert compensate(Rewriter(graph), before, record, context, "least-squares") == ("kept as cut, no better on held-out samples: %m, %y",)
    assert torch.equal(numbers_of(graph, "w2"), numbers_of(before, "w2")[[0, 1, 3, 4, 5, 6, 7]])
