from __future__ import annotations

from graphopt.passes.remove.fuse_activations import FuseActivations
from tests.support.pass_checks import check_kept, check_rewrite


def test_silu() -> None:
    check_rewrite(
        FuseActivations(),
        """
        graph g(%x: f32[2,8]) {
          %s: f32[2,8] = sigmoid(%x)
          %y: f32[2,8] = mul(%s, %x)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = silu(%x)
          return %y
        }
        """,
    )


def test_hardswish() -> None:
    check_rewrite(
        FuseActivations(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(%x, 3)
          %b: f32[2,8] = clamp(%a) {maximum=6.0, minimum=0.0}
          %c: f32[2,8] = mul(%x, %b)
          %y: f32[2,8] = div(%c, 6) {rounding=none}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = hardswish(%x)
          return %y
        }
        """,
    )


def test_hardsigmoid_then_hardswish() -> None:
    check_rewrite(
        FuseActivations(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = add(3.0, %x)
          %b: f32[2,8] = clamp(%a) {maximum=6.0, minimum=0.0}
          %c: f32[2,8] = mul(%b, 0.16666666666666666)
          %y: f32[2,8] = mul(%x, %c)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = hardswish(%x)
          return %y
        }
        """,
        fired=None,
    )


def test_logistic_mish_and_relu() -> None:
    check_rewrite(
        FuseActivations(),
        """
        graph g(%x: f32[2,8]) {
          %n: f32[2,8] = neg(%x)
          %e: f32[2,8] = exp(%n)
          %d: f32[2,8] = add(%e, 1.0)
          %a: f32[2,8] = div(1.0, %d) {rounding=none}
          %p: f32[2,8] = softplus(%x) {beta=1.0, threshold=20.0}
          %t: f32[2,8] = tanh(%p)
          %b: f32[2,8] = mul(%x, %t)
          %c: f32[2,8] = maximum(%x, 0.0)
          return %a, %b, %c
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = sigmoid(%x)
          %b: f32[2,8] = mish(%x)
          %c: f32[2,8] = relu(%x)
          return %a, %b, %c
        }
        """,
        fired=3,
    )


def test_other_scale_or_input_stays() -> None:
    check_kept(
        FuseActivations(),
        """
        graph g(%x: f32[2,8], %z: f32[2,8]) {
          %a: f32[2,8] = add(%x, 3)
          %b: f32[2,8] = clamp(%a) {maximum=6.0, minimum=0.0}
          %y: f32[2,8] = div(%b, 5) {rounding=none}
          %s: f32[2,8] = sigmoid(%x)
          %t: f32[2,8] = mul(%s, %z)
          return %y, %t
        }
        """,
        "is scaled by 0.2, needs 1/6",
    )
