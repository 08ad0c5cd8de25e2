from __future__ import annotations

from graphopt.passes.remove.hoist_max_pools import HoistMaxPools
from tests.support.pass_checks import check_kept, check_rewrite


def test_pool_moves_above_activation() -> None:
    check_rewrite(
        HoistMaxPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %r: f32[1,2,4,4] = relu(%x)
          %y: f32[1,2,2,2] = max_pool2d(%r) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          %x.max_pool2d: f32[1,2,2,2] = max_pool2d(%x)
              {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          %y: f32[1,2,2,2] = relu(%x.max_pool2d)
          return %y
        }
        """,
    )


def test_option_moves_it_between_convolution_and_relu() -> None:
    check_rewrite(
        HoistMaxPools(keep_fusable=False),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          %c: f32[1,3,4,4] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %r: f32[1,3,4,4] = relu(%c)
          %y: f32[1,3,2,2] = max_pool2d(%r) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          %c: f32[1,3,4,4] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %c.max_pool2d: f32[1,3,2,2] = max_pool2d(%c)
              {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          %y: f32[1,3,2,2] = relu(%c.max_pool2d)
          return %y
        }
        """,
    )


def test_convolution_keeps_its_relu() -> None:
    check_kept(
        HoistMaxPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          param %w: f32[3,2,1,1]
          %c: f32[1,3,4,4] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %r: f32[1,3,4,4] = relu(%c)
          %y: f32[1,3,2,2] = max_pool2d(%r) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          return %y
        }
        """,
        "conv2d and relu fuse in most backends",
    )


def test_falling_function_and_same_size_stay() -> None:
    check_kept(
        HoistMaxPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %r: f32[1,2,4,4] = leaky_relu(%x) {negative_slope=-0.1}
          %y: f32[1,2,2,2] = max_pool2d(%r) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          %s: f32[1,2,4,4] = sigmoid(%x)
          %z: f32[1,2,4,4] = max_pool2d(%s) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(1, 1), stride=(1, 1)}
          return %y, %z
        }
        """,
        "negative_slope is -0.1, needs >= 0",
        "needs fewer elements",
    )
