from __future__ import annotations

import torch

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.fold_constants import FoldConstants
from graphopt.passes.remove.merge_duplicate_constants import MergeDuplicateConstants
from tests.support.folding import check_pass, filled, set_state

BEFORE = """graph g(%x: f32[4]) {
  constant %a: f32[4]
  constant %b: f32[4]
  buffer %c: f32[4]
  buffer %d: f32[4]
  %u: f32[4] = add(%x, %a)
  %v: f32[4] = mul(%u, %b)
  %w: f32[4] = sub(%v, %c)
  %y: f32[4] = sub(%w, %d)
  return %y
}
"""
AFTER = """graph g(%x: f32[4]) {
  constant %a: f32[4]
  buffer %c: f32[4] tied ("d",)
  %u: f32[4] = add(%x, %a)
  %v: f32[4] = mul(%u, %a)
  %w: f32[4] = sub(%v, %c)
  %y: f32[4] = sub(%w, %c)
  return %y
}
"""
SPECIAL = torch.tensor([0.0, float("nan"), float("inf"), 1.0])


def test_equal_constants_and_equal_buffers_are_merged_each_kind_by_itself() -> None:
    graph = filled(BEFORE)
    for name in "abcd":
        set_state(graph, name, SPECIAL.clone())
    assert check_pass(MergeDuplicateConstants(), graph, rewritten=2).skipped == ()
    assert show(graph) == AFTER
    check_pass(MergeDuplicateConstants(), graph, rewritten=0)


def test_signs_of_zero_dtypes_and_shapes_differ() -> None:
    graph = filled(BEFORE)
    set_state(graph, "a", SPECIAL.clone())
    set_state(graph, "b", torch.cat([-SPECIAL[:1], SPECIAL[1:]]))
    check_pass(MergeDuplicateConstants(), graph, rewritten=0)
    assert MergeDuplicateConstants().run(parse(BEFORE)).rewritten == 0  # no numbers, nothing to compare


def test_a_difference_far_behind_is_seen() -> None:
    graph = filled(BEFORE.replace("f32[4]", "f32[4097]"))
    long = torch.zeros(4097)
    set_state(graph, "a", long.clone())
    long[4095] = 1
    set_state(graph, "b", long)
    check_pass(MergeDuplicateConstants(), graph, rewritten=0)


def test_what_trains_stays_and_says_why() -> None:
    graph = filled("""graph g(%x: f32[2,4]) {
  param %p: f32[4]
  param %q: f32[4]
  param %f: f32[4] frozen
  buffer %m: f32[4]
  buffer %var: f32[4]
  %a: f32[2,4] = batch_norm(%x, %p, %q, %m, %var) {eps=1e-05, mode="follow", momentum=0.1}
  %b: f32[2,4] = add(%a, %f)
  return %b
}""")
    for name in graph.states:
        set_state(graph, name, torch.ones(4))
    assert check_pass(MergeDuplicateConstants(), graph, rewritten=0).skipped == (
        ("p", "holds the bytes of %q, but trains on its own"),
        ("q", "holds the bytes of %p, but trains on its own"),
        ("f", "holds the bytes of %p, but is a parameter, needs a constant or buffer"),
        ("m", "holds the bytes of %var, but training writes to it"),
        ("var", "holds the bytes of %m, but training writes to it"),
    )


def test_the_same_after_rounding_only_is_not_the_same() -> None:
    text = """graph g(%x: f32[4]) {
  constant %c: f32[4]
  constant %d: f32[4]
  %a: f32[4] = sqrt(%c)
  %b: f32[4] = exp(%d)
  %y: f32[4] = add(%x, %a)
  %z: f32[4] = add(%y, %b)
  return %z
}"""
    graph = filled(text)
    set_state(graph, "c", torch.full((4,), 2.0))
    set_state(graph, "d", torch.full((4,), 2.0).sqrt().log())
    FoldConstants().run(graph)
    check_pass(MergeDuplicateConstants(), graph, rewritten=0)
