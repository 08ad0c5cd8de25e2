from __future__ import annotations

from graphopt.passes.remove.fold_pads import FoldPads
from tests.support.pass_checks import check_kept, check_rewrite


def test_zero_pad_moves_into_convolution() -> None:
    check_rewrite(
        FoldPads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          param %w: f32[4,2,3,3]
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %y: f32[1,4,6,6] = conv2d(%a, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,6,6]) {
          param %w: f32[4,2,3,3]
          %y: f32[1,4,6,6] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_zero_pad_moves_into_average_pool() -> None:
    check_rewrite(
        FoldPads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %y: f32[1,2,6,6] = avg_pool2d(%a)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,6,6]) {
          %y: f32[1,2,6,6] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(3, 3), padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_lopsided_pad_stays() -> None:
    check_kept(
        FoldPads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          param %w: f32[4,2,3,3]
          %a: f32[1,2,7,7] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (0, 1), (0, 1)), value=0.0}
          %y: f32[1,4,5,5] = conv2d(%a, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
        "pads (0, 1) on spatial axis 0, needs the same number",
    )


def test_pool_that_does_not_count_padding_stays() -> None:
    check_kept(
        FoldPads(),
        """
        graph g(%x: f32[1,2,6,6]) {
          %a: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
          %y: f32[1,2,6,6] = avg_pool2d(%a)
              {ceil_mode=false, count_include_pad=false, divisor_override=none, kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          %b: f32[1,2,8,8] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=1.0}
          %z: f32[1,2,6,6] = avg_pool2d(%b)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(3, 3), padding=(0, 0), stride=(1, 1)}
          return %y, %z
        }
        """,
        "count_include_pad is false",
        "pads with constant 1.0, needs constant 0",
    )
