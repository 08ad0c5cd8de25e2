from __future__ import annotations

from graphopt.passes.remove.hoist_slices_above_projections import HoistSlicesAboveProjections
from tests.support.pass_checks import check_kept, check_rewrite


def test_only_the_first_token_is_normalised() -> None:
    check_rewrite(
        HoistSlicesAboveProjections(),
        """
        graph g(%x: f32[2,5,8]) {
          param %w: f32[8]
          param %b: f32[8]
          %n: f32[2,5,8] = layer_norm(%x, %w, %b) {eps=1e-05, normalized_shape=(8,)}
          %y: f32[2,8] = select(%n) {axis=1, index=0}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,5,8]) {
          param %w: f32[8]
          param %b: f32[8]
          %x.select: f32[2,8] = select(%x) {axis=1, index=0}
          %y: f32[2,8] = layer_norm(%x.select, %w, %b) {eps=1e-05, normalized_shape=(8,)}
          return %y
        }
        """,
    )


def test_axis_of_softmax_moves_along() -> None:
    check_rewrite(
        HoistSlicesAboveProjections(),
        """
        graph g(%x: f32[2,5,8]) {
          %n: f32[2,5,8] = softmax(%x) {axis=2}
          %y: f32[2,8] = select(%n) {axis=1, index=0}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,5,8]) {
          %x.select: f32[2,8] = select(%x) {axis=1, index=0}
          %y: f32[2,8] = softmax(%x.select) {axis=1}
          return %y
        }
        """,
    )


def test_rows_of_a_linear_layer() -> None:
    check_rewrite(
        HoistSlicesAboveProjections(),
        """
        graph g(%x: f32[2,5,8], %w: f32[3,8]) {
          %n: f32[2,5,3] = linear(%x, %w, none)
          %y: f32[2,2,3] = slice(%n) {axis=1, start=1, step=2, stop=5}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,5,8], %w: f32[3,8]) {
          %x.slice: f32[2,2,8] = slice(%x) {axis=1, start=1, step=2, stop=5}
          %y: f32[2,2,3] = linear(%x.slice, %w, none)
          return %y
        }
        """,
    )


def test_mixed_axes_stay() -> None:
    check_kept(
        HoistSlicesAboveProjections(),
        """
        graph g(%x: f32[2,5,8], %w: f32[3,8]) {
          %n: f32[2,5,3] = linear(%x, %w, none)
          %y: f32[2,5] = select(%n) {axis=2, index=0}
          %s: f32[2,5,8] = softmax(%x) {axis=1}
          %z: f32[2,8] = select(%s) {axis=1, index=0}
          return %y, %z
        }
        """,
        "linear mixes the elements of axis 2",
        "softmax runs along the cut axis 1",
    )
