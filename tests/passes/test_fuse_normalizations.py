from __future__ import annotations

from graphopt.passes.remove.fuse_normalizations import FuseNormalizations
from tests.support.pass_checks import check_kept, check_rewrite


def test_layer_norm_with_weight_and_bias() -> None:
    check_rewrite(
        FuseNormalizations(),
        """
        graph g(%x: f32[2,8]) {
          param %w: f32[8]
          param %b: f32[8]
          %m: f32[2,1] = mean(%x) {axes=(1,), keepdims=true}
          %d: f32[2,8] = sub(%x, %m)
          %s: f32[2,8] = pow(%d, 2)
          %v: f32[2,1] = mean(%s) {axes=(1,), keepdims=true}
          %e: f32[2,1] = add(%v, 1e-05)
          %r: f32[2,1] = sqrt(%e)
          %n: f32[2,8] = div(%d, %r) {rounding=none}
          %p: f32[2,8] = mul(%w, %n)
          %y: f32[2,8] = add(%p, %b)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          param %w: f32[8]
          param %b: f32[8]
          %y: f32[2,8] = layer_norm(%x, %w, %b) {eps=1e-05, normalized_shape=(8,)}
          return %y
        }
        """,
        fired=3,
    )


def test_layer_norm_by_variance() -> None:
    check_rewrite(
        FuseNormalizations(),
        """
        graph g(%x: f32[2,8]) {
          %m: f32[2,1] = mean(%x) {axes=(1,), keepdims=true}
          %d: f32[2,8] = sub(%x, %m)
          %v: f32[2,1] = var(%x) {axes=(1,), correction=0, keepdims=true}
          %e: f32[2,1] = add(%v, 1e-05)
          %r: f32[2,1] = rsqrt(%e)
          %n: f32[2,8] = mul(%d, %r)
          return %n
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %n: f32[2,8] = layer_norm(%x, none, none) {eps=1e-05, normalized_shape=(8,)}
          return %n
        }
        """,
    )


def test_rms_norm_with_weight() -> None:
    check_rewrite(
        FuseNormalizations(),
        """
        graph g(%x: f32[2,8]) {
          param %w: f32[8]
          %s: f32[2,8] = square(%x)
          %v: f32[2,1] = mean(%s) {axes=(1,), keepdims=true}
          %e: f32[2,1] = add(%v, 1e-06)
          %r: f32[2,1] = rsqrt(%e)
          %n: f32[2,8] = mul(%x, %r)
          %y: f32[2,8] = mul(%w, %n)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          param %w: f32[8]
          %y: f32[2,8] = rms_norm(%x, %w) {eps=1e-06, normalized_shape=(8,)}
          return %y
        }
        """,
        fired=2,
    )


def test_first_axis_and_unbiased_variance_stay() -> None:
    check_kept(
        FuseNormalizations(),
        """
        graph g(%x: f32[2,8]) {
          %s: f32[2,8] = square(%x)
          %v: f32[1,8] = mean(%s) {axes=(0,), keepdims=true}
          %e: f32[1,8] = add(%v, 1e-06)
          %r: f32[1,8] = rsqrt(%e)
          %n: f32[2,8] = mul(%x, %r)
          %m: f32[2,1] = mean(%x) {axes=(1,), keepdims=true}
          %d: f32[2,8] = sub(%x, %m)
          %v2: f32[2,1] = var(%x) {axes=(1,), correction=1, keepdims=true}
          %e2: f32[2,1] = add(%v2, 1e-05)
          %r2: f32[2,1] = rsqrt(%e2)
          %n2: f32[2,8] = mul(%d, %r2)
          return %n, %n2
        }
        """,
        "normalises over axes (0,) of 2, needs the last ones",
        "correction 1, needs 0",
    )
