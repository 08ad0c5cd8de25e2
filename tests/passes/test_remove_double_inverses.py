from __future__ import annotations

from graphopt.passes.remove.remove_double_inverses import RemoveDoubleInverses
from tests.support.pass_checks import check_kept, check_rewrite


def test_inverses_cancel() -> None:
    check_rewrite(
        RemoveDoubleInverses(),
        """
        graph g(%x: f32[2,8], %b: bool[4]) {
          %a: f32[2,8] = neg(%x)
          %c: f32[2,8] = neg(%a)
          %d: f32[2,8] = flip(%c) {axes=(0, 1)}
          %e: f32[2,8] = flip(%d) {axes=(1, 0)}
          %f: bool[4] = logical_not(%b)
          %h: bool[4] = logical_not(%f)
          return %e, %h
        }
        """,
        """
        graph g(%x: f32[2,8], %b: bool[4]) {
          return %x, %b
        }
        """,
        fired=3,
    )


def test_rolls_add_up() -> None:
    check_rewrite(
        RemoveDoubleInverses(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = roll(%x) {axes=(0, 1), shifts=(1, 3)}
          %b: f32[2,8] = roll(%a) {axes=(1,), shifts=(2,)}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %b: f32[2,8] = roll(%x) {axes=(0, 1), shifts=(1, 5)}
          return %b
        }
        """,
    )


def test_negations_in_sums_and_products_vanish() -> None:
    check_rewrite(
        RemoveDoubleInverses(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %n: f32[2,8] = neg(%z)
          %a: f32[2,8] = add(%x, %n)
          %m: f32[2,8] = neg(%a)
          %k: f32[2,8] = neg(%x)
          %p: f32[2,8] = mul(%m, %k)
          return %p
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = sub(%x, %z)
          %p: f32[2,8] = mul(%a, %x)
          return %p
        }
        """,
        fired=2,
    )


def test_subtracting_a_negation_adds() -> None:
    check_rewrite(
        RemoveDoubleInverses(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %n: f32[2,8] = neg(%z)
          %a: f32[2,8] = sub(%x, %n)
          return %a
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = add(%x, %z)
          return %a
        }
        """,
    )


def test_other_axes_and_numbers_stay() -> None:
    check_kept(
        RemoveDoubleInverses(),
        """
        graph g(%x: f32[2,8], %i: i64[4]) {
          %a: f32[2,8] = flip(%x) {axes=(0,)}
          %b: f32[2,8] = flip(%a) {axes=(1,)}
          %c: bool[4] = logical_not(%i)
          %d: bool[4] = logical_not(%c)
          return %b, %d
        }
        """,
        "flips axes (1,) after (0,)",
        "needs a bool",
    )
