from __future__ import annotations

from graphopt.passes.remove.remove_unit_pools import RemoveUnitPools
from tests.support.pass_checks import check_kept, check_rewrite


def test_unit_pools_vanish() -> None:
    check_rewrite(
        RemoveUnitPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,4,4] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(1, 1), padding=(0, 0), stride=(1, 1)}
          %b: f32[1,2,4,4] = adaptive_max_pool2d(%a) {output_size=(4, 4)}
          %y: f32[1,2,4,4] = neg(%b)
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          %y: f32[1,2,4,4] = neg(%x)
          return %y
        }
        """,
        fired=2,
    )


def test_strided_pool_stays_and_says_why() -> None:
    check_kept(
        RemoveUnitPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,2,2] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(1, 1), padding=(0, 0), stride=(2, 2)}
          return %a
        }
        """,
        "kernel is 1, but stride is (2, 2), needs all 1",
    )


def test_real_pools_stay() -> None:
    check_kept(
        RemoveUnitPools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,2,2] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
          %b: f32[1,2,1,1] = adaptive_max_pool2d(%a) {output_size=(1, 1)}
          return %b
        }
        """,
    )
