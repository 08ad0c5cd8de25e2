from __future__ import annotations

from graphopt.passes.remove.fuse_attention import FuseAttention
from tests.support.pass_checks import check_kept, check_rewrite


def test_attention_with_mask() -> None:
    check_rewrite(
        FuseAttention(),
        """
        graph g(%q: f32[1,2,5,8], %k: f32[1,2,5,8], %v: f32[1,2,5,4], %mask: f32[1,1,5,5]) {
          %t: f32[1,2,8,5] = permute(%k) {axes=(0, 1, 3, 2)}
          %a: f32[1,2,5,5] = matmul(%q, %t)
          %b: f32[1,2,5,5] = mul(%a, 0.25)
          %c: f32[1,2,5,5] = add(%b, %mask)
          %p: f32[1,2,5,5] = softmax(%c) {axis=3}
          %y: f32[1,2,5,4] = matmul(%p, %v)
          return %y
        }
        """,
        """
        graph g(%q: f32[1,2,5,8], %k: f32[1,2,5,8], %v: f32[1,2,5,4], %mask: f32[1,1,5,5]) {
          %y: f32[1,2,5,4] = scaled_dot_product_attention(%q, %k, %v, %mask)
              {causal=false, dropout_p=0.0, grouped=false, scale=0.25}
          return %y
        }
        """,
    )


def test_attention_with_keys_transposed_elsewhere() -> None:
    check_rewrite(
        FuseAttention(),
        """
        graph g(%q: f32[2,5,8], %t: f32[2,8,5], %v: f32[2,5,4]) {
          %a: f32[2,5,5] = matmul(%q, %t)
          %p: f32[2,5,5] = softmax(%a) {axis=2}
          %y: f32[2,5,4] = matmul(%p, %v)
          return %y
        }
        """,
        """
        graph g(%q: f32[2,5,8], %t: f32[2,8,5], %v: f32[2,5,4]) {
          %permute: f32[2,5,8] = permute(%t) {axes=(0, 2, 1)}
          %y: f32[2,5,4] = scaled_dot_product_attention(%q, %permute, %v, none)
              {causal=false, dropout_p=0.0, grouped=false, scale=1.0}
          return %y
        }
        """,
    )


def test_mask_of_infinities_stays() -> None:
    check_kept(
        FuseAttention(),
        """
        graph g(%q: f32[1,2,5,8], %k: f32[1,2,5,8], %v: f32[1,2,5,4], %m: bool[1,1,5,5]) {
          %z: f32[1,1,5,5] = full() {dtype=f32, shape=(1, 1, 5, 5), value=0.0}
          %mask: f32[1,1,5,5] = where(%m, -inf, %z)
          %t: f32[1,2,8,5] = permute(%k) {axes=(0, 1, 3, 2)}
          %a: f32[1,2,5,5] = matmul(%q, %t)
          %b: f32[1,2,5,5] = mul(%a, 0.25)
          %c: f32[1,2,5,5] = add(%b, %mask)
          %p: f32[1,2,5,5] = softmax(%c) {axis=3}
          %y: f32[1,2,5,4] = matmul(%p, %v)
          return %y
        }
        """,
        "the mask has -inf",
    )


def test_dropout_between_and_other_axis_stay() -> None:
    check_kept(
        FuseAttention(),
        """
        graph g(%q: f32[1,2,5,8], %k: f32[1,2,5,8], %v: f32[1,2,5,4], %mask: f32[1,1,5,5]) {
          %t: f32[1,2,8,5] = permute(%k) {axes=(0, 1, 3, 2)}
          %a: f32[1,2,5,5] = matmul(%q, %t)
          %b: f32[1,2,5,5] = mul(%a, 0.25)
          %c: f32[1,2,5,5] = add(%b, %mask)
          %p: f32[1,2,5,5] = softmax(%c) {axis=3}
          %d: f32[1,2,5,5] = dropout(%p) {mode="follow", p=0.1}
          %y: f32[1,2,5,4] = matmul(%d, %v)
          %r: f32[1,2,5,5] = softmax(%a) {axis=2}
          %z: f32[1,2,5,4] = matmul(%r, %v)
          return %y, %z
        }
        """,
        "needs remove-dropout first",
        "softmax runs over axis 2",
    )


def test_scores_with_other_readers_stay() -> None:
    check_kept(
        FuseAttention(),
        """
        graph g(%q: f32[1,2,5,8], %k: f32[1,2,5,8], %v: f32[1,2,5,4], %mask: f32[1,1,5,5]) {
          %t: f32[1,2,8,5] = permute(%k) {axes=(0, 1, 3, 2)}
          %a: f32[1,2,5,5] = matmul(%q, %t)
          %b: f32[1,2,5,5] = mul(%a, 0.25)
          %c: f32[1,2,5,5] = add(%b, %mask)
          %p: f32[1,2,5,5] = softmax(%c) {axis=3}
          %y: f32[1,2,5,4] = matmul(%p, %v)
          return %y, %p
        }
        """,
    )
