from __future__ import annotations

from graphopt.passes.remove.sink_expands import SinkExpands
from tests.support.pass_checks import check_kept, check_rewrite


def test_reader_broadcasts_by_itself() -> None:
    check_rewrite(
        SinkExpands(),
        """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %e: f32[8,4] = expand(%b) {shape=(8, 4)}
          %y: f32[8,4] = add(%x, %e)
          return %y
        }
        """,
        """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %y: f32[8,4] = add(%x, %b)
          return %y
        }
        """,
    )


def test_unary_op_runs_on_the_small_tensor() -> None:
    check_rewrite(
        SinkExpands(),
        """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %e: f32[8,4] = expand(%b) {shape=(8, 4)}
          %f: f32[8,4] = exp(%e)
          %h: f32[8,4] = cast(%f) {dtype=f32}
          %y: f32[8,4] = mul(%x, %h)
          return %y
        }
        """,
        """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %exp: f32[4] = exp(%b)
          %cast: f32[4] = cast(%exp) {dtype=f32}
          %y: f32[8,4] = mul(%x, %cast)
          return %y
        }
        """,
        fired=3,
    )


def test_expand_that_gives_the_shape_stays() -> None:
    check_kept(
        SinkExpands(),
        """
        graph g(%b: f32[4], %c: f32[8,1]) {
          %e: f32[8,4] = expand(%b) {shape=(8, 4)}
          %y: f32[8,4] = mul(%e, 2.0)
          %f: f32[8,4] = relu(%e)
          return %y, %f
        }
        """,
    )
