from __future__ import annotations

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.fold_constants import FoldConstants
from graphopt.rewrite.derived import LateData
from tests.support.folding import check_pass, filled, set_state

BEFORE = """graph g(%x: f32[batch,4]) where batch in [1, 9] {
  param %p: f32[4]
  %grid: f32[4] = arange() {dtype=f32, start=0, step=1, stop=4}
  %half: f32[4] = mul(%grid, 0.5)
  %y: f32[batch,4] = add(%x, %half)
  %q: f32[4] = exp(%p)
  %z: f32[batch,4] = mul(%y, %q)
  return %z
}
"""
AFTER = """graph g(%x: f32[batch,4]) where batch in [1, 9] {
  param %p: f32[4]
  constant %half_folded: f32[4]
  %y: f32[batch,4] = add(%x, %half_folded)
  %q: f32[4] = exp(%p)
  %z: f32[batch,4] = mul(%y, %q)
  return %z
}
"""


def test_creation_ops_and_what_follows_become_a_constant() -> None:
    graph = filled(BEFORE)
    before = graph.clone()
    assert check_pass(FoldConstants(), graph).skipped == ()
    assert show(graph) == AFTER
    x = torch.randn(3, 4)
    assert torch.equal(Interpreter(before).run(x)[0], Interpreter(graph).run(x)[0])
    check_pass(FoldConstants(), graph, rewritten=0)


def test_without_numbers_creation_ops_fold_and_states_stay_empty() -> None:
    graph = parse(BEFORE.replace("  %grid", "  buffer %b: f32[4]\n  %grid").replace("mul(%grid, 0.5)", "mul(%grid, %b)"))
    assert FoldConstants().run(graph).rewritten == 1
    assert graph.states["half_folded"].data is None
    assert "b" in graph.states  # a buffer stays in the state_dict


def test_a_shared_part_is_computed_once_for_all_that_read_it() -> None:
    lines = ["graph g(%x: f32[4]) {", "  %c: f32[4] = arange() {dtype=f32, start=0, step=1, stop=4}", "  %v0: f32[4] = add(%c, 1)"]
    lines += [f"  %v{i}: f32[4] = add(%v{i - 1}, %v{i - 1})" for i in range(1, 60)]
    lines += ["  %y: f32[4] = add(%x, %v59)", "  %z: f32[4] = add(%y, %v30)", "  return %z", "}"]
    graph = filled("\n".join(lines))
    check_pass(FoldConstants(), graph, rewritten=2)
    assert [node.op for node in graph.nodes] == ["add", "add"]


@pytest.mark.parametrize(
    ("number", "reader", "expected"),
    [
        ("3.0", "mul(%x, %c)", "mul(%x, 3.0)"),
        ("-inf", "where(%m, %x, %c)", "where(%m, %x, -inf)"),
        ("0.1", "mul(%x, %c)", "mul(%x, %c_folded)"),  # the float64 world would see 0.1 and not its f32 neighbour
        ("nan", "add(%x, %c)", "add(%x, %c_folded)"),
        ("3.0", "pow(%x, %c)", "pow(%x, %c_folded)"),  # torch has other kernels for numbers
        ("3.0", "mul(%s, %c)", "mul(%s, %c_folded)"),  # f16[] * f32[] is f32, f16[] * 3.0 is f16
    ],
)
def test_a_number_becomes_a_literal_where_that_is_the_same(number: str, reader: str, expected: str) -> None:
    result = "f32[]" if "%s" in reader else "f32[2]"
    graph = filled(f"""graph g(%x: f32[2], %m: bool[2], %s: f16[]) {{
  %full: f32[1] = full() {{dtype=f32, shape=(1,), value={number}}}
  %c: f32[] = reshape(%full) {{shape=()}}
  %y: {result} = {reader}
  return %y
}}""")
    check_pass(FoldConstants(), graph, tolerance=1e-7 if number == "0.1" else 0.0)
    assert expected in show(graph)


def test_an_integer_becomes_a_literal_for_floats_too() -> None:
    graph = filled("""graph g(%x: f16[2], %i: i32[2]) {
  constant %k: i64[]
  %c: i64[] = add(%k, 2)
  %y: f16[2] = mul(%x, %c)
  %j: i32[2] = mul(%i, %c)
  return %y, %j
}""")
    check_pass(FoldConstants(), graph)
    assert not graph.states
    assert all(isinstance(node.operands[1], int) for node in graph.nodes)


def test_windows_masks_of_swin_fold() -> None:
    graph = filled("""graph g(%x: f32[4,2,4,4]) {
  %zeros: f32[4,4] = full() {dtype=f32, shape=(4, 4), value=0.0}
  %ones: f32[4,2] = full() {dtype=f32, shape=(4, 2), value=1.0}
  %image: f32[4,4] = slice_scatter(%zeros, %ones) {axis=1, start=2, step=1, stop=4}
  %r: f32[2,2,2,2] = reshape(%image) {shape=(2, 2, 2, 2)}
  %p: f32[2,2,2,2] = permute(%r) {axes=(0, 2, 1, 3)}
  %w: f32[4,4] = reshape(%p) {shape=(4, 4)}
  %a: f32[4,1,4] = reshape(%w) {shape=(4, 1, 4)}
  %b: f32[4,4,1] = reshape(%w) {shape=(4, 4, 1)}
  %d: f32[4,4,4] = sub(%a, %b)
  %ne: bool[4,4,4] = ne(%d, 0)
  %mask: f32[4,4,4] = where(%ne, -100.0, 0.0)
  %m: f32[4,1,4,4] = reshape(%mask) {shape=(4, 1, 4, 4)}
  %y: f32[4,2,4,4] = add(%x, %m)
  return %y
}""")
    check_pass(FoldConstants(), graph, tolerance=0.0)
    assert [node.op for node in graph.nodes] == ["add"]


def test_the_budget() -> None:
    text = """graph g(%x: f32[600,1000]) {
  constant %row: f32[1,1000]
  %double: f32[1,1000] = add(%row, %row)
  %big: f32[600,1000] = expand(%double) {shape=(600, 1000)}
  %y: f32[600,1000] = add(%x, %big)
  return %y
}"""
    graph = filled(text)
    (skipped,) = check_pass(FoldConstants(), graph).skipped
    assert skipped == ("big", "the result has 2400000 bytes, at most 4 times the 4000 that it is made from are stored")
    assert [node.op for node in graph.nodes] == ["expand", "add"]
    (skipped,) = check_pass(FoldConstants(max_bytes=3000), filled(text.replace("constant %row", "buffer %row")), rewritten=0).skipped[-1:]
    assert skipped == ("double", "the result has 4000 bytes, at most 3000 are stored")
    result = FoldConstants(max_bytes=100).run(parse(text))
    assert result.skipped == (("double", "add makes 4000 bytes, at most 1600 are computed beforehand"),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('%d: f32[4] = dropout(%c) {mode="train", p=0.5}', "dropout has an effect or regions, needs a pure op"),
        (
            "%d: f32[4] = aten.bernoulli.default(%c) {self=$0}",
            "aten.bernoulli.default is opaque, needs an op of the table or a pure ATen op",
        ),
        ("%d: f32[4] = mine.op.default(%c) {x=$0}", "mine.op.default is opaque, needs an op of the table or a pure ATen op"),
        ("%d: f32[4] = index_select(%c, %i) {axis=0}", "can't be computed beforehand: "),
    ],
)
def test_what_stays_says_why(line: str, reason: str) -> None:
    graph = filled(f"""graph g(%x: f32[4]) {{
  constant %c: f32[4]
  constant %i: i64[4]
  {line}
  %y: f32[4] = add(%x, %d)
  return %y
}}""")
    set_state(graph, "i", torch.tensor([0, 1, 2, 9]))
    result = FoldConstants().run(graph)
    assert (result.rewritten, graph.node_count) == (0, 2)
    assert result.skipped[0][0] == "d"
    assert result.skipped[0][1].startswith(reason)


def test_a_pure_op_of_aten_folds() -> None:
    graph = filled("""graph g(%x: i64[3]) {
  constant %c: i64[4]
  %d: i64[3] = aten.diff.default(%c) {self=$0}
  %y: i64[3] = add(%x, %d)
  return %y
}""")
    check_pass(FoldConstants(), graph)
    assert [node.op for node in graph.nodes] == ["add"]


def test_what_training_writes_to_is_no_constant() -> None:
    graph = filled("""graph g(%x: f32[2,4,3]) {
  buffer %mean: f32[4]
  buffer %var: f32[4]
  %n: f32[2,4,3] = batch_norm(%x, none, none, %mean, %var) {eps=1e-05, mode="follow", momentum=0.1}
  %s: f32[4] = sqrt(%var)
  %r: f32[4,1] = reshape(%s) {shape=(4, 1)}
  %y: f32[2,4,3] = mul(%n, %r)
  return %y
}""")
    check_pass(FoldConstants(), graph, rewritten=0)


def test_a_folded_output_keeps_its_place_and_can_be_frozen() -> None:
    graph = filled(
        """graph g(%x: f32[2]) {
  constant %c: f32[4]
  %a, %b = split(%c) {axis=0, sizes=(2, 2)}
  return %x, %a, %b
}""".replace("%a, %b =", "%a: f32[2], %b: f32[2] =")
    )
    check_pass(FoldConstants(), graph, rewritten=2)
    assert graph.node_count == 0
    assert list(graph.states) == ["a_folded", "b_folded"]
    data = graph.states["a_folded"].data
    assert isinstance(data, LateData)
    numbers = data.tensor()
    data.freeze()
    assert data.tensor() is numbers
    assert data.precise().dtype == torch.float64
    assert numbers.untyped_storage().nbytes() == 8


def test_the_option_is_printed() -> None:
    assert repr(FoldConstants(max_bytes=5)) == "fold-constants{max_bytes=5}"
