from __future__ import annotations

from graphopt.passes.remove.remove_constant_selects import RemoveConstantSelects
from tests.support.pass_checks import check_kept, check_rewrite


def test_known_answers_vanish() -> None:
    check_rewrite(
        RemoveConstantSelects(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          %t: bool[2,8] = full() {dtype=bool, shape=(2, 8), value=true}
          %a: f32[2,8] = where(%t, %x, %z)
          %b: f32[2,8] = where(%c, %a, %a)
          %m: bool[2,8] = full() {dtype=bool, shape=(2, 8), value=false}
          %y: f32[2,8] = where(%m, %z, %b)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          return %x
        }
        """,
        fired=3,
    )


def test_negated_condition_swaps_branches() -> None:
    check_rewrite(
        RemoveConstantSelects(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          %n: bool[2,8] = logical_not(%c)
          %y: f32[2,8] = where(%n, %x, %z)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          %y: f32[2,8] = where(%c, %z, %x)
          return %y
        }
        """,
    )


def test_inner_question_is_answered() -> None:
    check_rewrite(
        RemoveConstantSelects(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          %a: f32[2,8] = where(%c, %x, %z)
          %y: f32[2,8] = where(%c, 1.0, %a)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8], %c: bool[2,8]) {
          %y: f32[2,8] = where(%c, 1.0, %z)
          return %y
        }
        """,
    )


def test_number_or_broadcast_branch_stays() -> None:
    check_kept(
        RemoveConstantSelects(),
        """
        graph g(%x: f32[2,8], %z: f32[8]) {
          %t: bool[2,8] = full() {dtype=bool, shape=(2, 8), value=true}
          %a: f32[2,8] = where(%t, 0.0, %x)
          %f: bool[2,8] = full() {dtype=bool, shape=(2, 8), value=false}
          %b: f32[2,8] = where(%f, %x, %z)
          return %a, %b
        }
        """,
        "is the number 0.0",
        "needs the same type",
    )
