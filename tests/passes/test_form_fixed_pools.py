from __future__ import annotations

import pytest

from graphopt.passes.remove.form_fixed_pools import FormFixedPools
from tests.support.pass_checks import check_kept, check_rewrite


@pytest.mark.parametrize(
    ("kind", "own"),
    [("avg", "ceil_mode=false, count_include_pad=true, divisor_override=none"), ("max", "ceil_mode=false, dilation=(1, 1)")],
)
def test_equal_windows(kind: str, own: str) -> None:
    check_rewrite(
        FormFixedPools(),
        f"""
        graph g(%x: f32[2,3,6,8]) {{
          %y: f32[2,3,3,2] = adaptive_{kind}_pool2d(%x) {{output_size=(3, 2)}}
          return %y
        }}
        """,
        f"""
        graph g(%x: f32[2,3,6,8]) {{
          %y: f32[2,3,3,2] = {kind}_pool2d(%x) {{{own}, kernel=(2, 4), padding=(0, 0), stride=(2, 4)}}
          return %y
        }}
        """,
    )


def test_one_window_is_a_global_pool() -> None:
    check_rewrite(
        FormFixedPools(),
        """
        graph g(%x: f32[2,3,7,7]) {
          %y: f32[2,3,1,1] = avg_pool2d(%x)
              {ceil_mode=true, count_include_pad=true, divisor_override=none, kernel=(7, 7), padding=(0, 0), stride=(3, 3)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,3,7,7]) {
          %y: f32[2,3,1,1] = adaptive_avg_pool2d(%x) {output_size=(1, 1)}
          return %y
        }
        """,
    )


def test_unequal_windows_stay() -> None:
    check_kept(
        FormFixedPools(),
        """
        graph g(%x: f32[2,3,7,7], %z: f32[2,3,size,size]) where size in [1, 64] {
          %y: f32[2,3,3,3] = adaptive_avg_pool2d(%x) {output_size=(3, 3)}
          %w: f32[2,3,2,2] = adaptive_max_pool2d(%z) {output_size=(2, 2)}
          %v: f32[2,3,1,1] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=5, kernel=(7, 7), padding=(0, 0), stride=(7, 7)}
          return %y, %w, %v
        }
        """,
        "spatial axis 0 has 7 elements for 3 outputs, needs a multiple known before the graph runs",
        "spatial axis 0 has size elements for 2 outputs",
        "the window is the whole image, but padding or a divisor count too",
    )


def test_global_and_same_size_pools_are_not_its_business() -> None:
    check_kept(
        FormFixedPools(),
        """
        graph g(%x: f32[2,3,7,7]) {
          %y: f32[2,3,1,1] = adaptive_avg_pool2d(%x) {output_size=(1, 1)}
          %z: f32[2,3,7,7] = adaptive_avg_pool2d(%x) {output_size=(7, 7)}
          return %y, %z
        }
        """,
    )
