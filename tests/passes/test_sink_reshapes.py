from __future__ import annotations

from graphopt.passes.remove.sink_reshapes import SinkReshapes
from tests.support.pass_checks import check_kept, check_rewrite


def test_reshapes_around_activation_merge() -> None:
    check_rewrite(
        SinkReshapes(),
        """
        graph g(%x: f32[2,3,4]) {
          %a: f32[2,12] = reshape(%x) {shape=(2, 12)}
          %r: f32[2,12] = relu(%a)
          %y: f32[6,4] = reshape(%r) {shape=(6, 4)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,4]) {
          %r: f32[2,3,4] = relu(%x)
          %y: f32[6,4] = reshape(%r) {shape=(6, 4)}
          return %y
        }
        """,
    )


def test_reshapes_that_cancel_vanish() -> None:
    check_rewrite(
        SinkReshapes(),
        """
        graph g(%x: f32[2,3,4], %z: f32[2,3,4]) {
          %a: f32[2,12] = reshape(%x) {shape=(2, 12)}
          %b: f32[2,12] = reshape(%z) {shape=(2, 12)}
          %s: f32[2,12] = add(%a, %b)
          %y: f32[2,3,4] = reshape(%s) {shape=(2, 3, 4)}
          return %y, %a
        }
        """,
        """
        graph g(%x: f32[2,3,4], %z: f32[2,3,4]) {
          %a: f32[2,12] = reshape(%x) {shape=(2, 12)}
          %y: f32[2,3,4] = add(%x, %z)
          return %y, %a
        }
        """,
    )


def test_broadcasting_between_stays() -> None:
    check_kept(
        SinkReshapes(),
        """
        graph g(%x: f32[2,3,4], %z: f32[12]) {
          %a: f32[2,12] = reshape(%x) {shape=(2, 12)}
          %s: f32[2,12] = add(%a, %z)
          %y: f32[2,3,4] = reshape(%s) {shape=(2, 3, 4)}
          %c: f32[1,12] = reshape(%z) {shape=(1, 12)}
          %d: f32[2,12] = add(%a, %c)
          %e: f32[2,3,4] = reshape(%d) {shape=(2, 3, 4)}
          return %y, %e
        }
        """,
        "%z between two reshapes is not reshaped",
        "several shapes",
    )
