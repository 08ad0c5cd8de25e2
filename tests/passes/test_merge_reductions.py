from __future__ import annotations

from graphopt.passes.remove.merge_reductions import MergeReductions
from tests.support.pass_checks import check_kept, check_rewrite


def test_reduced_axes_are_dropped_at_once() -> None:
    check_rewrite(
        MergeReductions(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %m: f32[2,3,1,1] = mean(%x) {axes=(2, 3), keepdims=true}
          %y: f32[2,3] = reshape(%m) {shape=(2, 3)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %y: f32[2,3] = mean(%x) {axes=(2, 3), keepdims=false}
          return %y
        }
        """,
    )


def test_reduced_axes_are_kept_at_once() -> None:
    check_rewrite(
        MergeReductions(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %m: f32[2,3] = sum(%x) {axes=(2, 3), keepdims=false}
          %y: f32[2,3,1,1] = reshape(%m) {shape=(2, 3, 1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %y: f32[2,3,1,1] = sum(%x) {axes=(2, 3), keepdims=true}
          return %y
        }
        """,
    )


def test_extrema_merge() -> None:
    check_rewrite(
        MergeReductions(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[2,3,5] = amax(%x) {axes=(2,), keepdims=false}
          %b: f32[2,3] = amax(%a) {axes=(2,), keepdims=false}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %b: f32[2,3] = amax(%x) {axes=(2, 3), keepdims=false}
          return %b
        }
        """,
    )


def test_other_reshape_and_mixed_keepdims_stay() -> None:
    check_kept(
        MergeReductions(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[2,3,1,5] = amax(%x) {axes=(2,), keepdims=true}
          %b: f32[2,3,1] = amax(%a) {axes=(3,), keepdims=false}
          %c: f32[6] = reshape(%b) {shape=(6,)}
          return %c
        }
        """,
        "one reduction keeps its axes",
    )
