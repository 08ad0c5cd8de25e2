from __future__ import annotations

from graphopt.passes.remove.merge_pads import MergePads
from tests.support.pass_checks import check_kept, check_rewrite


def test_pads_add_up() -> None:
    check_rewrite(
        MergePads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %b: f32[1,2,11,11] = pad(%a) {mode="constant", pads=((0, 0), (0, 0), (1, 2), (1, 2)), value=0.0}
          return %b
        }
        """,
        """
        graph g(%x: f32[1,2,6,6]) {
          %b: f32[1,2,11,11] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (2, 3), (2, 3)), value=0.0}
          return %b
        }
        """,
    )


def test_infinite_pad_moves_into_max_pool() -> None:
    check_rewrite(
        MergePads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=-inf}
          %y: f32[1,2,6,6] = max_pool2d(%a) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,6,6]) {
          %y: f32[1,2,6,6] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_other_values_modes_and_sides_stay() -> None:
    check_kept(
        MergePads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %b: f32[1,2,10,10] = pad(%a) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=1.0}
          %c: f32[1,2,12,12] = pad(%b) {mode="reflect", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %d: f32[1,2,10,10] = max_pool2d(%c) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          %e: f32[1,2,13,13] = pad(%c) {mode="constant", pads=((0, 0), (0, 0), (0, 1), (0, 1)), value=-inf}
          %f: f32[1,2,11,11] = max_pool2d(%e) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          return %f, %d
        }
        """,
        "values are 0.0 and 1.0",
        "needs constant twice",
        "needs constant -inf",
        "pads (0, 1) on spatial axis 0",
    )


def test_crop_and_fill_stays() -> None:
    check_kept(
        MergePads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,4,4] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (-1, -1), (-1, -1)), value=0.0}
          %b: f32[1,2,6,6] = pad(%a) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          return %b
        }
        """,
        "crop and fill",
    )


def test_max_pool_pads_at_most_half_its_kernel() -> None:
    check_kept(
        MergePads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,10,10] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (2, 2), (2, 2)), value=-inf}
          %y: f32[1,2,8,8] = max_pool2d(%a) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
        "needs at most half",
    )
