from __future__ import annotations

from graphopt.passes.remove.remove_neutral_arithmetic import RemoveNeutralArithmetic
from tests.support.pass_checks import check_kept, check_rewrite


def test_neutral_numbers_vanish() -> None:
    check_rewrite(
        RemoveNeutralArithmetic(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = mul(%x, 1.0)
          %b: f32[2,8] = div(%a, 1) {rounding=none}
          %c: f32[2,8] = sub(%b, 0.0)
          %d: f32[2,8] = add(-0.0, %c)
          %e: f32[2,8] = pow(%d, 1.0)
          %y: f32[2,8] = mul(true, %e)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = mul(true, %x)
          return %y
        }
        """,
        fired=5,
    )


def test_integers_have_one_zero() -> None:
    check_rewrite(
        RemoveNeutralArithmetic(),
        """
        graph g(%i: i64[4], %b: bool[4]) {
          %a: i64[4] = add(%i, 0)
          %y: i64[4] = bitwise_or(%a, 0)
          %c: bool[4] = logical_and(%b, true)
          %z: bool[4] = logical_xor(%c, false)
          return %y, %z
        }
        """,
        """
        graph g(%i: i64[4], %b: bool[4]) {
          return %i, %b
        }
        """,
        fired=4,
    )


def test_adding_positive_zero_changes_negative_zero() -> None:
    check_kept(
        RemoveNeutralArithmetic(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(%x, 0.0)
          %b: f32[2,8] = sub(%a, -0.0)
          return %b
        }
        """,
        "turns -0.0 into 0.0; needs -0.0",
        "subtracting -0.0",
    )


def test_dtype_change_is_no_identity() -> None:
    check_kept(
        RemoveNeutralArithmetic(),
        """
        graph g(%i: i64[4]) {
          %a: f32[4] = mul(%i, 1.0)
          return %a
        }
        """,
        "needs the same type",
    )


def test_sides_and_rounding_matter() -> None:
    check_kept(
        RemoveNeutralArithmetic(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = sub(0.0, %x)
          %b: f32[2,8] = div(1.0, %x) {rounding=none}
          %c: f32[2,8] = div(%x, 1.0) {rounding="floor"}
          return %a, %b, %c
        }
        """,
    )
