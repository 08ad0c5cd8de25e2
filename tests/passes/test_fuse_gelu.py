from __future__ import annotations

from graphopt.passes.remove.fuse_gelu import FuseGelu
from tests.support.pass_checks import check_kept, check_rewrite


def test_erf_form() -> None:
    check_rewrite(
        FuseGelu(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = mul(%x, 0.7071067811865476)
          %b: f32[2,8] = erf(%a)
          %c: f32[2,8] = add(%b, 1.0)
          %d: f32[2,8] = mul(%x, %c)
          %e: f32[2,8] = mul(%d, 0.5)
          return %e
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %e: f32[2,8] = gelu(%x) {approximate="none"}
          return %e
        }
        """,
    )


def test_tanh_form_in_another_order() -> None:
    check_rewrite(
        FuseGelu(),
        """
        graph g(%x: f32[2,8]) {
          %h: f32[2,8] = mul(%x, 0.5)
          %p: f32[2,8] = pow(%x, 3.0)
          %q: f32[2,8] = mul(%p, 0.044715)
          %s: f32[2,8] = add(%x, %q)
          %u: f32[2,8] = mul(%s, 0.7978845608028654)
          %t: f32[2,8] = tanh(%u)
          %v: f32[2,8] = add(1.0, %t)
          %y: f32[2,8] = mul(%h, %v)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = gelu(%x) {approximate="tanh"}
          return %y
        }
        """,
    )


def test_tanh_form_with_factored_argument() -> None:
    check_rewrite(
        FuseGelu(),
        """
        graph g(%x: f32[2,8]) {
          %p: f32[2,8] = mul(%x, 0.044715)
          %q: f32[2,8] = mul(%p, %x)
          %s: f32[2,8] = add(%q, 1.0)
          %k: f32[2,8] = mul(%x, 0.7978845608028654)
          %u: f32[2,8] = mul(%k, %s)
          %t: f32[2,8] = tanh(%u)
          %v: f32[2,8] = add(1.0, %t)
          %h: f32[2,8] = mul(%x, 0.5)
          %y: f32[2,8] = mul(%h, %v)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = gelu(%x) {approximate="tanh"}
          return %y
        }
        """,
    )


def test_constant_rounded_to_single_precision_stays() -> None:
    check_kept(
        FuseGelu(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = mul(%x, 0.70710678)
          %b: f32[2,8] = erf(%a)
          %c: f32[2,8] = add(%b, 1.0)
          %d: f32[2,8] = mul(%x, %c)
          %e: f32[2,8] = mul(%d, 0.5)
          return %e
        }
        """,
        "needs sqrt(1/2) = 0.7071067811865476 to ten digits",
    )


def test_another_scale_stays() -> None:
    check_kept(
        FuseGelu(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = mul(%x, 0.7071067811865476)
          %b: f32[2,8] = erf(%a)
          %c: f32[2,8] = add(%b, 1.0)
          %d: f32[2,8] = mul(%x, %c)
          %e: f32[2,8] = mul(%d, 0.25)
          return %e
        }
        """,
        "scaled by 0.25, needs 0.5",
    )
