from __future__ import annotations

from graphopt.passes.remove.remove_dropout import RemoveDropout
from tests.support.pass_checks import check_kept, check_rewrite


def test_dropout_is_removed() -> None:
    check_rewrite(
        RemoveDropout(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = dropout(%x) {mode="follow", p=0.5}
          %b: f32[2,8] = feature_dropout(%a) {mode="eval", p=0.5}
          %y: f32[2,8] = relu(%b)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = relu(%x)
          return %y
        }
        """,
        fired=2,
    )


def test_dropout_pinned_to_train_mode_stays() -> None:
    check_kept(
        RemoveDropout(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = dropout(%x) {mode="train", p=0.5}
          return %a
        }
        """,
        'mode is "train"',
    )
