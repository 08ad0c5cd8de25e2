from __future__ import annotations

from graphopt.passes.remove.remove_repeated_idempotents import RemoveRepeatedIdempotents
from tests.support.pass_checks import check_kept, check_rewrite


def test_second_relu_vanishes() -> None:
    check_rewrite(
        RemoveRepeatedIdempotents(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = relu(%x)
          %b: f32[2,8] = relu(%a)
          return %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = relu(%x)
          return %a
        }
        """,
    )


def test_relu_of_what_is_never_negative_vanishes() -> None:
    check_rewrite(
        RemoveRepeatedIdempotents(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = sigmoid(%x)
          %b: f32[2,8] = relu(%a)
          %c: f32[2,8] = abs(%b)
          %d: f32[2,8] = softmax(%c) {axis=1}
          %e: f32[2,8] = relu(%d)
          return %e
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = sigmoid(%x)
          %d: f32[2,8] = softmax(%a) {axis=1}
          return %d
        }
        """,
        fired=3,
    )


def test_rounding_of_whole_numbers_vanishes() -> None:
    check_rewrite(
        RemoveRepeatedIdempotents(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = round(%x)
          %b: f32[2,8] = floor(%a)
          %c: f32[2,8] = tril(%b) {diagonal=0}
          %d: f32[2,8] = tril(%c) {diagonal=0}
          return %d
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = round(%x)
          %c: f32[2,8] = tril(%a) {diagonal=0}
          return %c
        }
        """,
        fired=2,
    )


def test_other_diagonal_stays() -> None:
    check_kept(
        RemoveRepeatedIdempotents(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = tril(%x) {diagonal=1}
          %b: f32[2,8] = tril(%a) {diagonal=0}
          return %b
        }
        """,
        "diagonal is 0 after 1",
    )


def test_abs_of_relu_stays_as_relu_keeps_negative_zero() -> None:
    check_kept(
        RemoveRepeatedIdempotents(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = relu(%x)
          %b: f32[2,8] = abs(%a)
          return %b
        }
        """,
    )
