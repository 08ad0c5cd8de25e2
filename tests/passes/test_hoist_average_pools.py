from __future__ import annotations

from graphopt.passes.remove.hoist_average_pools import HoistAveragePools
from tests.support.pass_checks import check_kept, check_rewrite


def test_pool_moves_above_pointwise_convolution() -> None:
    check_rewrite(
        HoistAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          param %b: f32[3]
          %c: f32[1,3,4,4] = conv2d(%x, %w, %b) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %y: f32[1,3,2,2] = avg_pool2d(%c)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          param %b: f32[3]
          %x.avg_pool2d: f32[1,2,2,2] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          %y: f32[1,3,2,2] = conv2d(%x.avg_pool2d, %w, %b) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_mean_moves_above_pointwise_convolution() -> None:
    check_rewrite(
        HoistAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          param %b: f32[3]
          %c: f32[1,3,4,4] = conv2d(%x, %w, %b) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %y: f32[1,3] = mean(%c) {axes=(2, 3), keepdims=false}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          param %b: f32[3]
          %x.mean: f32[1,2,1,1] = mean(%x) {axes=(2, 3), keepdims=true}
          %conv2d: f32[1,3,1,1] = conv2d(%x.mean, %w, %b) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %y: f32[1,3] = reshape(%conv2d) {shape=(1, 3)}
          return %y
        }
        """,
    )


def test_counted_padding_scales_a_bias() -> None:
    check_kept(
        HoistAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          param %b: f32[3]
          %c: f32[1,3,4,4] = conv2d(%x, %w, %b) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %y: f32[1,3,3,3] = avg_pool2d(%c)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(2, 2), padding=(1, 1), stride=(2, 2)}
          return %y
        }
        """,
        "has a bias and the pool counts padding",
    )


def test_wide_kernel_stays() -> None:
    check_kept(
        HoistAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,3,3]
          param %b: f32[3]
          %c: f32[1,3,4,4] = conv2d(%x, %w, %b) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          %y: f32[1,3,2,2] = avg_pool2d(%c)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          return %y
        }
        """,
    )
