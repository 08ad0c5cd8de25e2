from __future__ import annotations

from graphopt.passes.remove.merge_clamps import MergeClamps
from tests.support.pass_checks import check_kept, check_rewrite


def test_relu_and_clamp_are_one_clamp() -> None:
    check_rewrite(
        MergeClamps(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = relu(%x)
          %b: f32[2,8] = clamp(%a) {maximum=6.0, minimum=none}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %b: f32[2,8] = clamp(%x) {maximum=6.0, minimum=0}
          return %b
        }
        """,
    )


def test_wider_clamp_vanishes() -> None:
    check_rewrite(
        MergeClamps(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = clamp(%x) {maximum=0.5, minimum=-0.5}
          %b: f32[2,8] = clamp(%a) {maximum=6.0, minimum=-1}
          %c: f32[2,8] = minimum(%b, 2.0)
          return %c
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = clamp(%x) {maximum=0.5, minimum=-0.5}
          return %a
        }
        """,
        fired=None,
    )


def test_disjoint_clamps_are_constant_but_for_nan() -> None:
    check_rewrite(
        MergeClamps(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = clamp(%x) {maximum=1.0, minimum=0.5}
          %b: f32[2,8] = clamp(%a) {maximum=0.25, minimum=none}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %b: f32[2,8] = clamp(%x) {maximum=0.25, minimum=0.5}
          return %b
        }
        """,
    )


def test_numbers_become_bounds_and_zero_relu() -> None:
    check_rewrite(
        MergeClamps(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = maximum(0.25, %x)
          %b: f32[2,8] = clamp(%x) {maximum=none, minimum=0.0}
          return %a, %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = clamp(%x) {maximum=none, minimum=0.25}
          %b: f32[2,8] = relu(%x)
          return %a, %b
        }
        """,
        fired=2,
    )


def test_signed_zeros_stay() -> None:
    check_kept(
        MergeClamps(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = maximum(%x, 0.0)
          %b: f32[2,8] = clamp(%a) {maximum=none, minimum=-0.0}
          %c: f32[2,8] = relu(%b)
          return %c
        }
        """,
        "which zero",
        "symbolic, NaN or -0.0",
    )
