from __future__ import annotations

import pytest

from graphopt.passes.remove.remove_idle_pool_borders import RemoveIdlePoolBorders
from tests.support.folding import filled, largest_difference
from tests.support.pass_checks import check_kept, check_rewrite


def test_max_pool_larger_than_its_image() -> None:
    check_rewrite(
        RemoveIdlePoolBorders(),
        """
        graph g(%x: f32[1,2,3,3]) {
          %y: f32[1,2,3,3] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(9, 9), padding=(4, 4), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,3,3]) {
          %y: f32[1,2,3,3] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(5, 5), padding=(2, 2), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_average_that_counts_padding_keeps_its_divisor() -> None:
    check_rewrite(
        RemoveIdlePoolBorders(),
        """
        graph g(%x: f32[1,2,1,2]) {
          %y: f32[1,2,1,2] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=none, kernel=(3, 3), padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,1,2]) {
          %y: f32[1,2,1,2] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=true, divisor_override=9, kernel=(1, 3), padding=(0, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_average_that_does_not_count_padding_needs_no_divisor() -> None:
    check_rewrite(
        RemoveIdlePoolBorders(),
        """
        graph g(%x: f32[1,2,1,2]) {
          %y: f32[1,2,1,2] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=false, divisor_override=none, kernel=(3, 3), padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[1,2,1,2]) {
          %y: f32[1,2,1,2] = avg_pool2d(%x)
              {ceil_mode=false, count_include_pad=false, divisor_override=none, kernel=(1, 3), padding=(0, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def _pool(op: str, size: int, kernel: int, stride: int, padding: int, ceil: bool, own: str) -> str | None:
    covered = size + 2 * padding - kernel
    if covered < 0 and not ceil:
        return None
    count = (covered + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        return None
    return f"""
    graph g(%x: f32[1,2,{size}]) {{
      %y: f32[1,2,{count}] = {op}(%x) {{ceil_mode={str(ceil).lower()}, kernel=({kernel},), padding=({padding},), stride=({stride},), {own}}}
      return %y
    }}
    """


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("own", ["max", "true, divisor_override=none", "false, divisor_override=none", "true, divisor_override=5"])
def test_every_window_on_a_small_image(ceil: bool, own: str) -> None:
    """All sizes, kernels, strides and paddings: numbers stay, and the pass comes to rest."""
    fired = 0
    for size in (1, 2, 3):
        for kernel in (3, 4, 7):
            for stride in (1, 2, 3):
                for padding in range(1, kernel // 2 + 1):
                    op = "max_pool1d" if own == "max" else "avg_pool1d"
                    attrs = "dilation=(1,)" if own == "max" else f"count_include_pad={own}"
                    text = _pool(op, size, kernel, stride, padding, ceil, attrs)
                    if text is None:
                        continue
                    graph = filled(text)
                    before = graph.clone()
                    fired += RemoveIdlePoolBorders().run(graph).rewritten
                    assert largest_difference(before, graph) <= 1e-12
                    assert RemoveIdlePoolBorders().run(graph).rewritten == 0
    assert fired > 3


def test_windows_with_different_divisors_stay() -> None:
    check_kept(
        RemoveIdlePoolBorders(),
        """
        graph g(%x: f32[1,2,2]) {
          %y: f32[1,2,2] = avg_pool1d(%x)
              {ceil_mode=true, count_include_pad=true, divisor_override=none, kernel=(7,), padding=(3,), stride=(2,)}
          return %y
        }
        """,
        "windows reach over the padding's end, so their divisors differ",
    )
