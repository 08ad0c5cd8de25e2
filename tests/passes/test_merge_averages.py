from __future__ import annotations

from graphopt.passes.remove.merge_averages import MergeAverages
from tests.support.pass_checks import check_kept, check_rewrite


def test_global_pool_and_reshape_are_a_mean() -> None:
    check_rewrite(
        MergeAverages(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %p: f32[2,3,1,1] = adaptive_avg_pool2d(%x) {output_size=(1, 1)}
          %y: f32[2,3] = reshape(%p) {shape=(2, 3)}
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


def test_mean_of_permuted_tensor() -> None:
    check_rewrite(
        MergeAverages(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %p: f32[2,4,5,3] = permute(%x) {axes=(0, 2, 3, 1)}
          %y: f32[2,3] = mean(%p) {axes=(1, 2), keepdims=false}
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


def test_sums_merge() -> None:
    check_rewrite(
        MergeAverages(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[2,3,4,1] = sum(%x) {axes=(3,), keepdims=true}
          %b: f32[1,3,4,1] = sum(%a) {axes=(0,), keepdims=true}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %b: f32[1,3,4,1] = sum(%x) {axes=(0, 3), keepdims=true}
          return %b
        }
        """,
    )


def test_global_max_pool_and_reshape_are_amax() -> None:
    check_rewrite(
        MergeAverages(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %p: f32[2,3,1,1] = adaptive_max_pool2d(%x) {output_size=(1, 1)}
          %y: f32[2,3] = reshape(%p) {shape=(2, 3)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %y: f32[2,3] = amax(%x) {axes=(2, 3), keepdims=false}
          return %y
        }
        """,
    )


def test_axes_out_of_order_stay() -> None:
    check_kept(
        MergeAverages(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %p: f32[2,5,3,4] = permute(%x) {axes=(0, 3, 1, 2)}
          %y: f32[2,5,3] = mean(%p) {axes=(3,), keepdims=false}
          %q: f32[2,4,5,3] = permute(%x) {axes=(0, 2, 3, 1)}
          %z: f32[2,1,1,3] = mean(%q) {axes=(1, 2), keepdims=true}
          return %y, %z
        }
        """,
        "needs them in order",
        "keepdims is true",
    )
