from __future__ import annotations

from graphopt.passes.remove.remove_noop_resizes import RemoveNoopResizes
from tests.support.pass_checks import check_kept, check_rewrite


def test_same_size_vanishes() -> None:
    check_rewrite(
        RemoveNoopResizes(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,4,4] = resize(%x) {align_corners=false, mode="nearest", scales=none, size=(4, 4)}
          %b: f32[1,2,4,4] = resize(%a) {align_corners=false, mode="linear", scales=none, size=(4, 4)}
          %c: f32[1,2,4,4] = resize(%b) {align_corners=false, mode="cubic", scales=none, size=(4, 4)}
          return %c
        }
        """,
        """
        graph g(%x: f32[1,2,4,4]) {
          return %x
        }
        """,
        fired=3,
    )


def test_scales_decide_positions() -> None:
    check_kept(
        RemoveNoopResizes(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,4,4] = resize(%x) {align_corners=false, mode="nearest", scales=(1.2, 1.2), size=(4, 4)}
          return %a
        }
        """,
        "scales is (1.2, 1.2)",
    )


def test_another_size_stays() -> None:
    check_kept(
        RemoveNoopResizes(),
        """
        graph g(%x: f32[1,2,4,4]) {
          %a: f32[1,2,8,8] = resize(%x) {align_corners=false, mode="nearest", scales=none, size=(8, 8)}
          return %a
        }
        """,
    )
