from __future__ import annotations

from graphopt.passes.remove.remove_zero_additions import RemoveZeroAdditions
from tests.support.pass_checks import check_kept, check_rewrite


def test_zeros_vanish() -> None:
    check_rewrite(
        RemoveZeroAdditions(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(%x, 0.0)
          %b: f32[2,8] = add(0, %a)
          %c: f32[2,8] = sub(%b, -0.0)
          return %c
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          return %x
        }
        """,
        fired=3,
    )


def test_negation_and_dtype_change_stay() -> None:
    check_kept(
        RemoveZeroAdditions(),
        """
        graph g(%x: f32[2,8], %i: i64[4]) {
          %a: f32[2,8] = sub(0.0, %x)
          %b: f32[4] = add(%i, 0.0)
          return %a, %b
        }
        """,
        "needs the same type",
    )
