from __future__ import annotations

from graphopt.passes.remove.remove_unit_average_pools import RemoveUnitAveragePools
from tests.support.pass_checks import check_kept, check_rewrite


def test_unit_pools_vanish() -> None:
    check_rewrite(
        RemoveUnitAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,4,4] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(1, 1), padding=(0, 0), stride=(1, 1)}
          %b: f32[1,2,4,4] = adaptive_avg_pool2d(%a) {output_size=(4, 4)}
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


def test_another_divisor_stays() -> None:
    check_kept(
        RemoveUnitAveragePools(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,4,4] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=2, kernel=(1, 1), padding=(0, 0), stride=(1, 1)}
          return %a
        }
        """,
        "divisor_override is 2, needs none or 1",
    )
