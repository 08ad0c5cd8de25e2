"""Compensation where the right answer is known: dependent channels, constant channels, statistics."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from graphopt.analysis.axes import AxisGroup
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.passes.shrink.compensation import compensate, compensate_layers
from graphopt.passes.shrink.compensation.sequence import Compensation
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.rewrite.cut import CutRecord
from graphopt.rewrite.rewriter import Rewriter
from tests.support.cutting import cut_group
from tests.support.folding import filled, set_state
from tests.support.groups import hand_made_group

PLAIN = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"


def _cut(graph: Graph, group: AxisGroup, gone: Sequence[int]) -> tuple[Graph, CutRecord]:
    before = graph.clone()
    return before, cut_group(graph, group, gone)


def _context(shape: Sequence[int], *, batches: int = 4, dtype: torch.dtype = torch.float64, seed: int = 3) -> Context:
    generator = torch.Generator().manual_seed(seed)
    return Context(calibration=Calibration([Batch((torch.randn(tuple(shape), generator=generator, dtype=dtype),)) for _ in range(batches)]))


def _state(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.precise()


def _difference(before: Graph, after: Graph, shape: Sequence[int]) -> float:
    """Relative difference of the first outputs, on data that no fit has seen."""
    verify(after)
    (fresh,) = next(iter(_calibration(_context(shape, batches=1, seed=99)))).inputs
    old, new = (Interpreter(graph, precise=True).run(fresh)[0] for graph in (before, after))
    return float((old - new).norm() / old.norm())


def _calibration(context: Context) -> Calibration:
    assert context.calibration is not None
    return context.calibration


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
        numbers = _state(graph, name).clone()
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
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [1, 3, 5, 7])
    assert _difference(before, graph, (2, 3, 9, 9)) > 0.1
    (note,) = compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "least-squares")
    assert note.startswith("compensation (least-squares) of 1 layer: outputs on held-out samples are off by ")
    assert _difference(before, graph, (2, 3, 9, 9)) < 1e-8
    wanted = _state(before, "w2")[:, ::2] + _state(before, "w2")[:, 1::2]
    torch.testing.assert_close(_state(graph, "w2"), wanted, rtol=1e-7, atol=1e-7)


def test_grouped_convolutions_are_fitted_group_by_group() -> None:
    attrs = PLAIN.replace("groups=1", "groups=2")
    graph = filled(NETWORK.format(out=6, inner=4, size="5,5", plain=PLAIN, attrs=attrs))
    _pairs(graph, [0, 4], [1, 5])
    written = [(value, axis, role, [0, 1, 2, 3] * 2) for value, axis, role in CHANNELS[:4]]
    members = [*written, ("w2", 1, "read", [0, 1, 2, 3])]
    before, record = _cut(graph, hand_made_group(graph, "a", 4, members), [1])
    compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "least-squares")
    assert _difference(before, graph, (2, 3, 9, 9)) < 1e-8


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
        numbers = _state(graph, name).clone()
        numbers[5] = numbers[0]
        set_state(graph, name, numbers)
    depthwise = _state(graph, "d")
    members = [("w1", 0, "written"), ("a", 1, "carried"), ("d", 0, "scaled"), ("k", 1, "carried"), ("w2", 1, "read")]
    before, record = _cut(graph, hand_made_group(graph, "a", 6, members), [5])
    compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "least-squares")
    assert _difference(before, graph, (2, 3, 9, 9)) < 1e-8
    assert torch.equal(_state(graph, "d"), depthwise[:5])


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
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    assert _difference(before, graph, (4, 4, 6)) > 0.1
    compensate(Rewriter(graph), before, record, _context((16, 4, 6)), "least-squares")
    assert _difference(before, graph, (4, 4, 6)) < 1e-7
    assert torch.equal(_state(graph, "w3"), _state(before, "w3"))


EQUATIONS = {
    "neurons": ("f64[8,5]", "f64[n,4,5]", 'einsum(%a, %w2) {equation="btd,de->bte"}', [("w2", 0, "read")]),
    "weight first": ("f64[5,8]", "f64[n,4,5]", 'einsum(%w2, %a) {equation="ed,...d->...e"}', [("w2", 1, "read")]),
    "channels in front": ("f64[8,5]", "f64[n,5,4]", 'einsum(%a, %w2) {equation="btd,de->bet"}', [("w2", 0, "read")]),
    "heads": ("f64[3,8,2]", "f64[n,3,4,2]", 'einsum(%a, %w2) {equation="btd,hdk->bhtk"}', [("w2", 1, "read")]),
    "left": ("f64[5,8]", "f64[n,5,4]", "matmul(%w2, %t)", [("t", 1, "carried"), ("w2", 1, "read")]),
}


@pytest.mark.parametrize("form", EQUATIONS)
def test_products_however_they_are_written(form: str) -> None:
    """The same with the weight in any layout, and what it gives in any order."""
    weight, result, call, reads = EQUATIONS[form]
    turned = "  %t: f64[n,8,4] = permute(%a) {axes=(0, 2, 1)}\n" if "%t" in call else ""
    graph = filled(f"""graph g(%x: f64[n,4,6]) where n in [1, 64] {{
  param %w1: f64[8,6]
  param %w2: {weight}
  %a: f64[n,4,8] = linear(%x, %w1, none)
{turned}  %m: {result} = {call}
  %y: {result} = gelu(%m) {{approximate="none"}}
  return %y
}}""")
    members = [("w1", 0, "written"), ("a", 2, "carried"), *reads]
    before, record = _cut(graph, hand_made_group(graph, "a", 8, members, "neuron"), [2, 5])
    assert _difference(before, graph, (4, 4, 6)) > 0.1
    compensate(Rewriter(graph), before, record, _context((16, 4, 6)), "least-squares")
    assert _difference(before, graph, (4, 4, 6)) < 1e-7


def test_outputs_of_an_equation_that_are_cut_too() -> None:
    """Heads of an equation go at the same time as what it reads: targets are those of the heads that are left."""
    graph = filled("""graph g(%x: f64[n,4,6]) where n in [1, 64] {
  param %w1: f64[8,6]
  param %q: f64[8,4,3]
  param %o: f64[4,3,5]
  %a: f64[n,4,8] = linear(%x, %w1, none)
  %h: f64[n,4,4,3] = einsum(%a, %q) {equation="btd,dhk->bhtk"}
  %t: f64[n,4,4,3] = gelu(%h) {approximate="none"}
  %y: f64[n,4,5] = einsum(%t, %o) {equation="bhtk,hkd->btd"}
  return %y
}""")
    before = graph.clone()
    inner = cut_group(
        graph, hand_made_group(graph, "a", 8, [("w1", 0, "written"), ("a", 2, "carried"), ("q", 0, "read")], "neuron"), [2, 5]
    )
    set_state(graph, "o", _silenced(_state(graph, "o"), 1))
    set_state(before, "o", _silenced(_state(before, "o"), 1))
    heads = [("q", 1, "written"), ("h", 1, "carried"), ("t", 1, "carried"), ("o", 0, "read")]
    outer = cut_group(graph, hand_made_group(graph, "h", 4, heads, "neuron"), [1])
    kept = {name: [*inner.states.get(name, ()), *outer.states.get(name, ())] for name in ("w1", "q", "o")}
    assert _difference(before, graph, (4, 4, 6)) > 0.1
    notes = compensate_layers(Rewriter(graph), before, kept, _context((16, 4, 6)), "least-squares")
    assert not any("not compensated" in note for note in notes), notes
    assert _difference(before, graph, (4, 4, 6)) < 1e-7


def _silenced(tensor: torch.Tensor, head: int) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([head]), 0.0)


SPLIT = """graph g(%x: f64[n,4,6]) where n in [1, 64] {
  param %w1: f64[8,6]
  param %w: f64[9,8]
  param %b: f64[9]
  %a: f64[n,4,8] = linear(%x, %w1, none)
  %q: f64[4,8], %k: f64[5,8] = split(%w) {axis=0, sizes=(4, 5)}
  %qb: f64[4], %kb: f64[5] = split(%b) {axis=0, sizes=(4, 5)}
  %s: f64[n,4,4] = linear(%a, %q, %qb)
  %t: f64[n,4,5] = linear(%a, %k, %kb)
  %y: f64[n,4,9] = concat(%s, %t) {axis=2}
  %g: f64[n,4,9] = gelu(%y) {approximate="none"}
  return %g
}"""


@pytest.mark.parametrize("method", ["bias", "least-squares"])
def test_parts_of_a_weight_are_fitted_by_themselves(method: str) -> None:
    """nn.MultiheadAttention splits one weight where keys are others than queries; what reads its parts is fitted like any layer."""
    graph = filled(SPLIT)
    members = [("w1", 0, "written"), ("a", 2, "carried"), ("w", 1, "read"), ("q", 1, "carried"), ("k", 1, "carried")]
    before, record = _cut(graph, hand_made_group(graph, "a", 8, members, "neuron"), [2, 5])
    plain = _difference(before, graph, (4, 4, 6))
    notes = compensate(Rewriter(graph), before, record, _context((16, 4, 6)), method)  # type: ignore[arg-type]
    assert "of 2 layers" in notes[0] or method == "bias", notes
    assert not any("not compensated" in note for note in notes), notes
    assert method == "bias" or _difference(before, graph, (4, 4, 6)) < 1e-7 < 0.1 < plain


def test_parts_whose_rows_were_cut_too() -> None:
    """Row 1 of the first part and row 2 of the second, which nothing needs, are gone: targets are the rows that are left."""
    rows, text = (0, 2, 3, 4, 5, 7, 8), SPLIT.replace("param %b:", "param %o: f64[2,9]\n  param %b:")
    text = text.replace("return %g", "%r: f64[n,4,2] = linear(%g, %o, none)\n  return %r")
    before = filled(text)
    set_state(before, "o", _state(before, "o").index_fill(1, torch.tensor([1, 6]), 0.0))
    smaller = text.replace("%a: f64[n,4,8]", "%a: f64[n,4,6]").replace("f64[8,6]", "f64[6,6]").replace("f64[9,8]", "f64[7,6]")
    smaller = (
        smaller.replace("f64[9]", "f64[7]").replace("f64[2,9]", "f64[2,7]").replace("f64[n,4,9]", "f64[n,4,7]").replace("(4, 5)", "(3, 4)")
    )
    smaller = smaller.replace("%s: f64[n,4,4]", "%s: f64[n,4,3]").replace("%t: f64[n,4,5]", "%t: f64[n,4,4]")
    smaller = smaller.replace("%q: f64[4,8], %k: f64[5,8]", "%q: f64[3,6], %k: f64[4,6]").replace(
        "%qb: f64[4], %kb: f64[5]", "%qb: f64[3], %kb: f64[4]"
    )
    after, columns = filled(smaller), (0, 1, 3, 4, 6, 7)
    set_state(after, "w1", _state(before, "w1")[list(columns)])
    set_state(after, "w", _state(before, "w")[list(rows)][:, list(columns)])
    set_state(after, "b", _state(before, "b")[list(rows)])
    set_state(after, "o", _state(before, "o")[:, list(rows)])
    kept = {"w1": [(0, columns)], "w": [(0, rows), (1, columns)], "b": [(0, rows)], "o": [(1, rows)]}
    assert _difference(before, after, (4, 4, 6)) > 0.1
    notes = compensate_layers(Rewriter(after), before, kept, _context((16, 4, 6)), "least-squares")
    assert not any("not compensated" in note for note in notes), notes
    assert _difference(before, after, (4, 4, 6)) < 1e-7


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
    set_state(graph, "w0", _state(graph, "w0") * 0.9)
    compensate_layers(Rewriter(graph), before, {}, _context((64, 4, 6), batches=8), method)
    verify(graph)


@pytest.mark.parametrize(("samples", "batches"), [(1, 48), (24, 2), (24, 1)])
def test_many_batches_of_one_sample_and_few_large_ones(samples: int, batches: int) -> None:
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    compensate(Rewriter(graph), before, record, _context((samples, 4, 6), batches=batches), "least-squares")
    assert _difference(before, graph, (4, 4, 6)) < 1e-7


def test_inputs_without_a_batch_are_a_row_each() -> None:
    graph = filled("""graph g(%x: f64[6]) {
  param %w1: f64[8,6]
  param %w2: f64[5,8]
  param %b2: f64[5]
  %a: f64[8] = linear(%x, %w1, none)
  %y: f64[5] = linear(%a, %w2, %b2)
  return %y
}""")
    before, record = _cut(graph, hand_made_group(graph, "a", 8, [("w1", 0, "written"), ("a", 0, "carried"), ("w2", 1, "read")]), [2, 5])
    compensate(Rewriter(graph), before, record, _context((6,), batches=48), "least-squares")
    assert _difference(before, graph, (6,)) < 1e-7


def test_a_single_sample_has_nothing_to_hold_out_but_positions() -> None:
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    rows = _context((1, 4, 6), batches=1)
    notes = compensate(Rewriter(graph), before, record, rows, "least-squares")
    assert notes[0].startswith("compensation (least-squares)"), notes


def test_later_layers_see_and_mend_the_errors_of_earlier_ones() -> None:
    """What least squares could not restore in %m goes on, and %w3 is fitted to what really arrives."""
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    plain = _difference(before, graph, (32, 4, 6))
    half = graph.clone()
    notes = compensate(Rewriter(graph), before, record, _context((48, 4, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 2 layers")
    both = _difference(before, graph, (32, 4, 6))
    set_state(half, "w2", _state(graph, "w2"))
    one = _difference(before, half, (32, 4, 6))
    assert both < one < plain


def test_data_without_rows_to_spare_changes_nothing_for_the_worse() -> None:
    """Two samples can't say much about eight inputs: the held-out one decides, and the outputs do not get worse on it."""
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    context = _context((2, 4, 6), batches=1)
    plain = graph.clone()
    compensate(Rewriter(graph), before, record, context, "least-squares")
    (x,) = next(iter(_calibration(context))).inputs
    old, without, with_ = (Interpreter(g, precise=True).run(x)[0][1:] for g in (before, plain, graph))
    assert float((with_ - old).norm()) <= float((without - old).norm())


@pytest.mark.parametrize("method", ["bias", "least-squares"])
def test_a_constant_channel_goes_into_the_bias(method: str) -> None:
    graph = filled(NETWORK.format(out=5, inner=8, size="5,5", plain=PLAIN, attrs=PLAIN))
    numbers = _state(graph, "w1").clone()
    numbers[3] = 0
    set_state(graph, "w1", numbers)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), method)  # pyright: ignore[reportArgumentType]
    assert _difference(before, graph, (2, 3, 9, 9)) < 1e-12
    wanted = _state(before, "b2") + _state(before, "w2")[:, 3].sum((1, 2)) * _state(before, "b1")[3].tanh()
    torch.testing.assert_close(_state(graph, "b2"), wanted)
    assert torch.equal(_state(graph, "w2"), _state(before, "w2")[:, [0, 1, 2, 4, 5, 6, 7]])


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
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [0, 3, 4, 7])
    context = _context((8, 3, 9, 9))
    plain = _difference(before, graph, (16, 3, 9, 9))
    compensate(Rewriter(graph), before, record, context, "least-squares")
    assert _difference(before, graph, (16, 3, 9, 9)) < plain
    seen: list[torch.Tensor] = []
    for batch in _calibration(context):
        Interpreter(graph).run(*batch.inputs, on_value=lambda value, tensor: seen.append(tensor) if value.name == "c" else None)
    var, mean = torch.var_mean(torch.cat(seen), (0, 2, 3))
    torch.testing.assert_close(_state(graph, "mean"), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(_state(graph, "var"), var, rtol=1e-12, atol=1e-12)


def test_a_batch_norm_behind_a_layer_without_bias_takes_its_mean() -> None:
    graph = filled(NORMED)
    _pairs(graph, [0, 2], [1, 3])
    numbers = _state(graph, "w1").clone()
    numbers[7] = 0  # and a constant channel, which only a bias could restore
    set_state(graph, "w1", numbers)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [1, 3, 7])
    compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "least-squares")
    assert _difference(before, graph, (2, 3, 9, 9)) < 1e-8


def test_bias_correction_moves_the_shift_of_a_batch_norm() -> None:
    graph = filled(NORMED)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    notes = compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "bias")
    assert notes[0].startswith("compensation (bias) of 1 layer: ")
    changed = {
        name
        for name in graph.states
        if name in ("gamma", "beta", "mean", "var") and not torch.equal(_state(graph, name), _state(before, name))
    }
    assert changed == {"beta"}


def test_batch_norms_that_train_are_left_alone() -> None:
    graph = filled(NORMED.replace("follow", "train"))
    before, record = _cut(graph, hand_made_group(graph, "a", 8, CHANNELS), [3])
    notes = compensate(Rewriter(graph), before, record, _context((8, 3, 9, 9)), "bias")
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
        set_state(graph, "w0", _state(graph, "w0") * 0.9)
        notes = compensate_layers(Rewriter(graph), before, {}, _context((64, 6), batches=8), "least-squares")
        assert notes[0].startswith("compensation (least-squares) of 2 layers: ")
        errors.append(_difference(before, graph, (64, 6)))
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
        set_state(graph, "w0", _state(graph, "w0") * 0.9)
        compensate_layers(Rewriter(graph), before, {}, _context((64, 6), batches=8), method)
        assert not torch.equal(_state(graph, "b2"), _state(before, "b2"))
        errors[f"{method} {len(graph.outputs)}"] = _difference(before, graph, (64, 6))
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
    set_state(graph, "w0", _state(graph, "w0") * 0.9)
    notes = compensate_layers(Rewriter(graph), before, {}, _context((64, 6), batches=8), "bias")
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
    set_state(graph, "w1", _state(graph, "w1") * 0.5)
    notes = compensate_layers(Rewriter(graph), before, {}, _context((32, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 1 layer: ")
    assert notes[1:] == (
        "not compensated, its weight is shared: %b, %c",
        "not compensated, its weight is computed at run time: %y",
    )


def test_sparse_weights_keep_their_zeros() -> None:
    graph = filled(LINEARS.replace("param %w3: f64[3,5]", "param %w3: f64[3,5] sparse<unstructured 0.5>"))
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [1, 2, 5, 6])
    notes = compensate(Rewriter(graph), before, record, _context((48, 4, 6)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 2 layers: ")
    assert torch.equal(_state(graph, "w3"), _state(before, "w3"))
    assert not torch.equal(_state(graph, "b3"), _state(before, "b3"))


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
    before, record = _cut(graph, hand_made_group(graph, "a", 8, members), [0, 6])
    notes = compensate(Rewriter(graph), before, record, _context((8, 3, 5, 5)), "least-squares")
    assert notes[0].startswith("compensation (least-squares) of 1 layer: ")
    assert torch.equal(_state(graph, "up"), _state(before, "up")[[1, 2, 3, 4, 5, 7]])


def test_progress_and_memory_are_kept_to() -> None:
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2, 5])
    seen: list[str] = []

    def progress(what: str, _: float) -> None:
        seen.append(what)

    calibration = _calibration(_context((16, 4, 6)))
    work = Compensation(Rewriter(graph), before, record.states, calibration, "least-squares", progress=progress, limit=1)
    notes = work.run()
    assert notes[1] == "3 calibration batches were not used for compensation: they need more than 1 byte"
    assert seen == ["compensate m, 1 of 2", "compensate y, 2 of 2"]
    assert _difference(before, graph, (4, 4, 6)) < 1e-7


def test_without_data_or_method() -> None:
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    rewriter = Rewriter(graph)
    assert compensate(rewriter, before, record, _context((4, 4, 6)), "none") == ()
    assert compensate(rewriter, before, record, Context(), "bias") == (
        "no compensation: 'bias' needs calibration data, pass it as optimize(..., calibration=loader)",
    )
    with pytest.raises(PassOptionError, match="compensation is 'ols', needs one of none, bias, least-squares"):
        compensate_layers(rewriter, before, record.states, Context(), "ols")
    assert torch.equal(_state(graph, "w2"), _state(before, "w2")[[0, 1, 3, 4, 5, 6, 7]])


def test_data_with_nan_changes_nothing() -> None:
    graph = filled(LINEARS)
    before, record = _cut(graph, hand_made_group(graph, "a", 8, NEURONS, "neuron"), [2])
    context = Context(calibration=Calibration([Batch((torch.full((8, 4, 6), torch.nan, dtype=torch.float64),))]))
    assert compensate(Rewriter(graph), before, record, context, "least-squares") == ("kept as cut, no better on held-out samples: %m, %y",)
    assert torch.equal(_state(graph, "w2"), _state(before, "w2")[[0, 1, 3, 4, 5, 6, 7]])
