"""Attention, matrix products and recurrent layers."""

# Lines of IR text are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES"]

CASES = (
    Case(
        name="attention_loses_a_head",
        text="""graph g(%x: f32[batch,5,4]) where batch in [1, 16] {
  param %wq: f32[6,4]
  param %wk: f32[6,4]
  param %wv: f32[6,4]
  param %wo: f32[4,6]
  %q: f32[batch,5,6] = linear(%x, %wq, none)
  %k: f32[batch,5,6] = linear(%x, %wk, none)
  %v: f32[batch,5,6] = linear(%x, %wv, none)
  %q4: f32[batch,5,2,3] = reshape(%q) {shape=(batch, 5, 2, 3)}
  %k4: f32[batch,5,2,3] = reshape(%k) {shape=(batch, 5, 2, 3)}
  %v4: f32[batch,5,2,3] = reshape(%v) {shape=(batch, 5, 2, 3)}
  %qh: f32[batch,2,5,3] = permute(%q4) {axes=(0, 2, 1, 3)}
  %kh: f32[batch,2,5,3] = permute(%k4) {axes=(0, 2, 1, 3)}
  %vh: f32[batch,2,5,3] = permute(%v4) {axes=(0, 2, 1, 3)}
  %o: f32[batch,2,5,3] = scaled_dot_product_attention(%qh, %kh, %vh, none) {causal=false, dropout_p=0.0, grouped=false, scale=none}
  %t: f32[batch,5,2,3] = permute(%o) {axes=(0, 2, 1, 3)}
  %f: f32[batch,5,6] = reshape(%t) {shape=(batch, 5, 6)}
  %y: f32[batch,5,4] = linear(%f, %wo, none)
  return %y
}
""",
        size=2,
        members=[
            ("wq", 0, [0, 0, 0, 1, 1, 1]),
            ("wk", 0, [0, 0, 0, 1, 1, 1]),
            ("wv", 0, [0, 0, 0, 1, 1, 1]),
            ("q", 2, [0, 0, 0, 1, 1, 1]),
            ("k", 2, [0, 0, 0, 1, 1, 1]),
            ("v", 2, [0, 0, 0, 1, 1, 1]),
            ("q4", 2),
            ("k4", 2),
            ("v4", 2),
            ("qh", 1),
            ("kh", 1),
            ("vh", 1),
            ("o", 1),
            ("t", 2),
            ("f", 2, [0, 0, 0, 1, 1, 1]),
            ("wo", 1, [0, 0, 0, 1, 1, 1]),
        ],
        gone=(0,),
        changed="""param %wq: f32[3,4]
param %wk: f32[3,4]
param %wv: f32[3,4]
param %wo: f32[4,3]
%q: f32[batch,5,3] = linear(%x, %wq, none)
%k: f32[batch,5,3] = linear(%x, %wk, none)
%v: f32[batch,5,3] = linear(%x, %wv, none)
%q4: f32[batch,5,1,3] = reshape(%q) {shape=(batch, 5, 1, 3)}
%k4: f32[batch,5,1,3] = reshape(%k) {shape=(batch, 5, 1, 3)}
%v4: f32[batch,5,1,3] = reshape(%v) {shape=(batch, 5, 1, 3)}
%qh: f32[batch,1,5,3] = permute(%q4) {axes=(0, 2, 1, 3)}
%kh: f32[batch,1,5,3] = permute(%k4) {axes=(0, 2, 1, 3)}
%vh: f32[batch,1,5,3] = permute(%v4) {axes=(0, 2, 1, 3)}
%o: f32[batch,1,5,3] = scaled_dot_product_attention(%qh, %kh, %vh, none) {causal=false, dropout_p=0.0, grouped=false, scale=none}
%t: f32[batch,5,1,3] = permute(%o) {axes=(0, 2, 1, 3)}
%f: f32[batch,5,3] = reshape(%t) {shape=(batch, 5, 3)}
""",
    ),
    Case(
        name="attention_loses_features_inside_heads",
        text="""graph g(%x: f32[1,5,4], %vh: f32[1,2,5,4]) {
  param %wq: f32[8,4]
  param %wk: f32[8,4]
  %q: f32[1,5,8] = linear(%x, %wq, none)
  %k: f32[1,5,8] = linear(%x, %wk, none)
  %q4: f32[1,5,2,4] = reshape(%q) {shape=(1, 5, 2, 4)}
  %k4: f32[1,5,2,4] = reshape(%k) {shape=(1, 5, 2, 4)}
  %qh: f32[1,2,5,4] = permute(%q4) {axes=(0, 2, 1, 3)}
  %kh: f32[1,2,5,4] = permute(%k4) {axes=(0, 2, 1, 3)}
  %y: f32[1,2,5,4] = scaled_dot_product_attention(%qh, %kh, %vh, none) {causal=false, dropout_p=0.0, grouped=false, scale=none}
  return %y
}
""",
        size=4,
        members=[
            ("wq", 0, [0, 1, 2, 3, 0, 1, 2, 3]),
            ("wk", 0, [0, 1, 2, 3, 0, 1, 2, 3]),
            ("q", 2, [0, 1, 2, 3, 0, 1, 2, 3]),
            ("k", 2, [0, 1, 2, 3, 0, 1, 2, 3]),
            ("q4", 3),
            ("k4", 3),
            ("qh", 3),
            ("kh", 3),
        ],
        gone=(1,),
        changed="""param %wq: f32[6,4]
param %wk: f32[6,4]
%q: f32[1,5,6] = linear(%x, %wq, none)
%k: f32[1,5,6] = linear(%x, %wk, none)
%q4: f32[1,5,2,3] = reshape(%q) {shape=(1, 5, 2, 3)}
%k4: f32[1,5,2,3] = reshape(%k) {shape=(1, 5, 2, 3)}
%qh: f32[1,2,5,3] = permute(%q4) {axes=(0, 2, 1, 3)}
%kh: f32[1,2,5,3] = permute(%k4) {axes=(0, 2, 1, 3)}
%y: f32[1,2,5,4] = scaled_dot_product_attention(%qh, %kh, %vh, none) {causal=false, dropout_p=0.0, grouped=false, scale=0.5}
""",
    ),
    Case(
        name="matmul_einsum_and_softmax",
        text="""graph g(%x: f32[2,5,4]) {
  param %w1: f32[3,4]
  param %w2: f32[3,2]
  %a: f32[2,5,3] = linear(%x, %w1, none)
  %b: f32[2,3,5] = einsum(%a) {equation="bij->bji"}
  %y: f32[2,5,2] = matmul(%a, %w2)
  %s: f32[2,5,5] = matmul(%a, %b)
  %z: f32[2,5,5] = softmax(%s) {axis=2}
  return %y, %z
}
""",
        size=3,
        members=[("w1", 0), ("a", 2), ("w2", 0), ("b", 1)],
        gone=(1,),
        changed="""param %w1: f32[2,4]
param %w2: f32[2,2]
%a: f32[2,5,2] = linear(%x, %w1, none)
%b: f32[2,2,5] = einsum(%a) {equation="bij->bji"}
""",
    ),
    Case(
        name="lstm_hidden_state",
        text="""graph g(%x: f32[5,1,3]) {
  param %wi: f32[8,3]
  param %wh: f32[8,2]
  param %wo: f32[3,2]
  %h0: f32[1,1,2] = full() {dtype=f32, shape=(1, 1, 2), value=0.0}
  %c0: f32[1,1,2] = full() {dtype=f32, shape=(1, 1, 2), value=0.0}
  %o: f32[5,1,2], %h: f32[1,1,2], %c: f32[1,1,2] = lstm(%x, %h0, %c0, %wi, %wh) {batch_first=false, bidirectional=false, dropout=0.0, has_biases=false, layers=1, mode="follow"}
  %y: f32[5,1,3] = linear(%o, %wo, none)
  return %y
}
""",
        size=2,
        members=[
            ("wi", 0, [0, 1, 0, 1, 0, 1, 0, 1]),
            ("wh", 0, [0, 1, 0, 1, 0, 1, 0, 1]),
            ("wh", 1),
            ("h0", 2),
            ("c0", 2),
            ("o", 2),
            ("h", 2),
            ("c", 2),
            ("wo", 1),
        ],
        gone=(0,),
        changed="""param %wi: f32[4,3]
param %wh: f32[4,1]
param %wo: f32[3,1]
%h0: f32[1,1,1] = full() {dtype=f32, shape=(1, 1, 1), value=0.0}
%c0: f32[1,1,1] = full() {dtype=f32, shape=(1, 1, 1), value=0.0}
%o: f32[5,1,1], %h: f32[1,1,1], %c: f32[1,1,1] = lstm(%x, %h0, %c0, %wi, %wh) {batch_first=false, bidirectional=false, dropout=0.0, has_biases=false, layers=1, mode="follow"}
""",
    ),
)
