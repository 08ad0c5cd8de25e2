from __future__ import annotations

from graphopt.passes.remove.merge_common_subexpressions import MergeCommonSubexpressions
from tests.support.pass_checks import check_kept, check_rewrite


def test_equal_chains_become_one() -> None:
    check_rewrite(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = exp(%x)
          %b: f32[2,8] = exp(%x)
          %c: f32[2,8] = relu(%a)
          %d: f32[2,8] = relu(%b)
          %e: f32[2,8] = mul(%c, %d)
          return %e
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = exp(%x)
          %c: f32[2,8] = relu(%a)
          %e: f32[2,8] = mul(%c, %c)
          return %e
        }
        """,
        fired=2,
    )


def test_operands_of_a_sum_may_be_swapped() -> None:
    check_rewrite(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = add(%x, %z)
          %b: f32[2,8] = add(%z, %x)
          %c: f32[2,8] = sub(%a, %b)
          return %c
        }
        """,
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = add(%x, %z)
          %c: f32[2,8] = sub(%a, %a)
          return %c
        }
        """,
    )


def test_nan_literals_are_equal() -> None:
    check_rewrite(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(%x, nan)
          %b: f32[2,8] = add(%x, nan)
          return %a, %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(%x, nan)
          return %a, %a
        }
        """,
    )


def test_literals_that_differ_in_type_or_sign_are_different() -> None:
    check_kept(
        MergeCommonSubexpressions(),
        """
        graph g(%x: i64[4], %f: f32[4]) {
          %a: i64[4] = mul(%x, 1)
          %b: f32[4] = mul(%x, 1.0)
          %c: i64[4] = mul(%x, true)
          %d: f32[4] = add(%f, 0.0)
          %e: f32[4] = add(%f, -0.0)
          return %a, %b, %c, %d, %e
        }
        """,
    )


def test_order_matters_for_maximum() -> None:
    check_kept(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = maximum(%x, %z)
          %b: f32[2,8] = maximum(%z, %x)
          return %a, %b
        }
        """,
    )


def test_dropout_and_batch_norm_in_train_mode_stay() -> None:
    check_kept(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,3]) {
          %a: f32[2,3] = dropout(%x) {mode="follow", p=0.5}
          %b: f32[2,3] = dropout(%x) {mode="follow", p=0.5}
          %c: f32[2,3] = batch_norm(%x, none, none, none, none) {eps=1e-05, mode="train", momentum=0.1}
          %d: f32[2,3] = batch_norm(%x, none, none, none, none) {eps=1e-05, mode="train", momentum=0.1}
          return %a, %b, %c, %d
        }
        """,
        "equal to %a, but draws random numbers",
        "equal to %c, but updates running statistics",
    )


def test_opaque_ops_are_not_merged() -> None:
    check_kept(
        MergeCommonSubexpressions(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[4] = aten.histc.default(%x) {bins=4, self=$0}
          %b: f32[4] = aten.histc.default(%x) {bins=4, self=$0}
          return %a, %b
        }
        """,
        "opaque op aten.histc.default",
    )
