from __future__ import annotations

from graphopt.passes.remove.sink_permutes import SinkPermutes
from tests.support.pass_checks import check_kept, check_rewrite


def test_permutes_around_activation_cancel() -> None:
    check_rewrite(
        SinkPermutes(),
        """
        graph g(%x: f32[1,4,8,3]) {
          %p: f32[1,8,3,4] = permute(%x) {axes=(0, 2, 3, 1)}
          %r: f32[1,8,3,4] = relu(%p)
          %m: f32[1,8,3,4] = mul(%r, 2.0)
          %q: f32[1,4,8,3] = permute(%m) {axes=(0, 3, 1, 2)}
          return %q
        }
        """,
        """
        graph g(%x: f32[1,4,8,3]) {
          %r: f32[1,4,8,3] = relu(%x)
          %q: f32[1,4,8,3] = mul(%r, 2.0)
          return %q
        }
        """,
    )


def test_sum_of_permuted_tensors_is_permuted_once() -> None:
    check_rewrite(
        SinkPermutes(),
        """
        graph g(%x: f32[2,3,4], %z: f32[2,3,4]) {
          %p: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %q: f32[4,2,3] = permute(%z) {axes=(2, 0, 1)}
          %s: f32[4,2,3] = add(%p, %q)
          %y: f32[4,3,2] = permute(%s) {axes=(0, 2, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,4], %z: f32[2,3,4]) {
          %s: f32[2,3,4] = add(%x, %z)
          %y: f32[4,3,2] = permute(%s) {axes=(2, 1, 0)}
          return %y
        }
        """,
    )


def test_tensor_that_is_not_permuted_stays() -> None:
    check_kept(
        SinkPermutes(),
        """
        graph g(%x: f32[2,3,4], %z: f32[4,2,3]) {
          %p: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %s: f32[4,2,3] = add(%p, %z)
          %y: f32[2,3,4] = permute(%s) {axes=(1, 2, 0)}
          return %y
        }
        """,
        "%z between two permutes is not permuted",
    )


def test_permutes_with_other_readers_that_do_not_cancel_stay() -> None:
    check_kept(
        SinkPermutes(),
        """
        graph g(%x: f32[2,3,4]) {
          %p: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %s: f32[4,2,3] = relu(%p)
          %y: f32[4,3,2] = permute(%s) {axes=(0, 2, 1)}
          return %y, %p
        }
        """,
        "do not cancel",
    )


def test_inner_result_with_other_readers_stays() -> None:
    check_kept(
        SinkPermutes(),
        """
        graph g(%x: f32[2,3,4]) {
          %p: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %s: f32[4,2,3] = relu(%p)
          %y: f32[2,3,4] = permute(%s) {axes=(1, 2, 0)}
          return %y, %s
        }
        """,
    )
