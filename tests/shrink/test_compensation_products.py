"""Compensation of products with a weight, however they are written, and of the parts of a weight that is split."""

from __future__ import annotations

import pytest
import torch

from graphopt.passes.shrink.compensation import compensate, compensate_layers
from graphopt.rewrite.rewriter import Rewriter
from tests.support.compensating import context_of, cut, numbers_of, relative_difference
from tests.support.cutting import cut_group
from tests.support.folding import filled, set_state
from tests.support.groups import hand_made_group

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
    before, record = cut(graph, hand_made_group(graph, "a", 8, members, "neuron"), [2, 5])
    assert relative_difference(before, graph, (4, 4, 6)) > 0.1
    compensate(Rewriter(graph), before, record, context_of((16, 4, 6)), "least-squares")
    assert relative_difference(before, graph, (4, 4, 6)) < 1e-7


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
    set_state(graph, "o", _silenced(numbers_of(graph, "o"), 1))
    set_state(before, "o", _silenced(numbers_of(before, "o"), 1))
    heads = [("q", 1, "written"), ("h", 1, "carried"), ("t", 1, "carried"), ("o", 0, "read")]
    outer = cut_group(graph, hand_made_group(graph, "h", 4, heads, "neuron"), [1])
    kept = {name: [*inner.states.get(name, ()), *outer.states.get(name, ())] for name in ("w1", "q", "o")}
    assert relative_difference(before, graph, (4, 4, 6)) > 0.1
    notes = compensate_layers(Rewriter(graph), before, kept, context_of((16, 4, 6)), "least-squares")
    assert not any("not compensated" in note for note in notes), notes
    assert relative_difference(before, graph, (4, 4, 6)) < 1e-7


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
    before, record = cut(graph, hand_made_group(graph, "a", 8, members, "neuron"), [2, 5])
    plain = relative_difference(before, graph, (4, 4, 6))
    notes = compensate(Rewriter(graph), before, record, context_of((16, 4, 6)), method)  # type: ignore[arg-type]
    assert "of 2 layers" in notes[0] or method == "bias", notes
    assert not any("not compensated" in note for note in notes), notes
    assert plain > 0.1
    assert relative_difference(before, graph, (4, 4, 6)) < (1e-7 if method == "least-squares" else plain)


def test_parts_whose_rows_were_cut_too() -> None:
    """Row 1 of the first part and row 2 of the second, which nothing needs, are gone: targets are the rows that are left."""
    rows, text = (0, 2, 3, 4, 5, 7, 8), SPLIT.replace("param %b:", "param %o: f64[2,9]\n  param %b:")
    text = text.replace("return %g", "%r: f64[n,4,2] = linear(%g, %o, none)\n  return %r")
    before = filled(text)
    set_state(before, "o", numbers_of(before, "o").index_fill(1, torch.tensor([1, 6]), 0.0))
    smaller = text.replace("%a: f64[n,4,8]", "%a: f64[n,4,6]").replace("f64[8,6]", "f64[6,6]").replace("f64[9,8]", "f64[7,6]")
    smaller = (
        smaller.replace("f64[9]", "f64[7]").replace("f64[2,9]", "f64[2,7]").replace("f64[n,4,9]", "f64[n,4,7]").replace("(4, 5)", "(3, 4)")
    )
    smaller = smaller.replace("%s: f64[n,4,4]", "%s: f64[n,4,3]").replace("%t: f64[n,4,5]", "%t: f64[n,4,4]")
    smaller = smaller.replace("%q: f64[4,8], %k: f64[5,8]", "%q: f64[3,6], %k: f64[4,6]").replace(
        "%qb: f64[4], %kb: f64[5]", "%qb: f64[3], %kb: f64[4]"
    )
    after, columns = filled(smaller), (0, 1, 3, 4, 6, 7)
    set_state(after, "w1", numbers_of(before, "w1")[list(columns)])
    set_state(after, "w", numbers_of(before, "w")[list(rows)][:, list(columns)])
    set_state(after, "b", numbers_of(before, "b")[list(rows)])
    set_state(after, "o", numbers_of(before, "o")[:, list(rows)])
    kept = {"w1": [(0, columns)], "w": [(0, rows), (1, columns)], "b": [(0, rows)], "o": [(1, rows)]}
    assert relative_difference(before, after, (4, 4, 6)) > 0.1
    notes = compensate_layers(Rewriter(after), before, kept, context_of((16, 4, 6)), "least-squares")
    assert not any("not compensated" in note for note in notes), notes
    assert relative_difference(before, after, (4, 4, 6)) < 1e-7
