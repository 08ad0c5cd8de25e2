"""Small graphs of every family of ops, a group in each, and the lines of the graph that a cut changes."""

# Lines of IR text are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """`text` is cut by taking `gone` of the `size` units of a group; `changed` are the lines that become others.

    `members` are (value, axis) where position i is unit i, or (value, axis, unit of each position). Units whose states
    are zero leave the outputs as they are, but where `renormalised`.
    """

    name: str
    text: str
    size: int
    members: Sequence[tuple[str, int] | tuple[str, int, Sequence[int]]]
    gone: tuple[int, ...]
    changed: str
    renormalised: bool = False


CASES = (
    Case(
        name="conv_norm_residual",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[4,3,1,1]
  param %s: f32[4]
  buffer %m: f32[4]
  buffer %v: f32[4]
  param %w2: f32[4,4,1,1]
  param %w3: f32[2,4,1,1]
  %a: f32[1,4,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %n: f32[1,4,4,4] = batch_norm(%a, %s, none, %m, %v) {eps=1e-05, mode="follow", momentum=0.1}
  %b: f32[1,4,4,4] = conv2d(%n, %w2, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %r: f32[1,4,4,4] = add(%b, %n)
  %y: f32[1,2,4,4] = conv2d(%r, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=4,
        members=[("w1", 0), ("s", 0), ("m", 0), ("v", 0), ("a", 1), ("n", 1), ("w2", 0), ("w2", 1), ("b", 1), ("r", 1), ("w3", 1)],
        gone=(1,),
        changed="""param %w1: f32[3,3,1,1]
param %s: f32[3]
buffer %m: f32[3]
buffer %v: f32[3]
param %w2: f32[3,3,1,1]
param %w3: f32[2,3,1,1]
%a: f32[1,3,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%n: f32[1,3,4,4] = batch_norm(%a, %s, none, %m, %v) {eps=1e-05, mode="follow", momentum=0.1}
%b: f32[1,3,4,4] = conv2d(%n, %w2, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%r: f32[1,3,4,4] = add(%b, %n)
""",
    ),
    Case(
        name="depthwise_conv",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %w2: f32[6,1,1,1]
  param %w3: f32[2,6,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %b: f32[1,6,4,4] = conv2d(%a, %w2, none) {dilation=(1, 1), groups=6, padding=(0, 0), stride=(1, 1)}
  %y: f32[1,2,4,4] = conv2d(%b, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=6,
        members=[("w1", 0), ("w2", 0), ("a", 1), ("b", 1), ("w3", 1)],
        gone=(0, 5),
        changed="""param %w1: f32[4,3,1,1]
param %w2: f32[4,1,1,1]
param %w3: f32[2,4,1,1]
%a: f32[1,4,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%b: f32[1,4,4,4] = conv2d(%a, %w2, none) {dilation=(1, 1), groups=4, padding=(0, 0), stride=(1, 1)}
""",
    ),
    Case(
        name="grouped_conv_loses_whole_groups",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %w2: f32[4,3,1,1]
  param %w3: f32[2,4,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %b: f32[1,4,4,4] = conv2d(%a, %w2, none) {dilation=(1, 1), groups=2, padding=(0, 0), stride=(1, 1)}
  %y: f32[1,2,4,4] = conv2d(%b, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=2,
        members=[
            ("w1", 0, [0, 0, 0, 1, 1, 1]),
            ("w2", 0, [0, 0, 1, 1]),
            ("a", 1, [0, 0, 0, 1, 1, 1]),
            ("b", 1, [0, 0, 1, 1]),
            ("w3", 1, [0, 0, 1, 1]),
        ],
        gone=(0,),
        changed="""param %w1: f32[3,3,1,1]
param %w2: f32[2,3,1,1]
param %w3: f32[2,2,1,1]
%a: f32[1,3,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%b: f32[1,2,4,4] = conv2d(%a, %w2, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
""",
    ),
    Case(
        name="grouped_conv_loses_a_channel_of_each_group",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %w2: f32[4,3,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %y: f32[1,4,4,4] = conv2d(%a, %w2, none) {dilation=(1, 1), groups=2, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=3,
        members=[("w1", 0, [0, 1, 2, 0, 1, 2]), ("w2", 1), ("a", 1, [0, 1, 2, 0, 1, 2])],
        gone=(1,),
        changed="""param %w1: f32[4,3,1,1]
param %w2: f32[4,2,1,1]
%a: f32[1,4,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
""",
    ),
    Case(
        name="transposed_grouped_conv",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %w2: f32[6,1,1,1]
  param %w3: f32[2,3,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %b: f32[1,3,4,4] = conv_transpose2d(%a, %w2, none) {dilation=(1, 1), groups=3, output_padding=(0, 0), padding=(0, 0), stride=(1, 1)}
  %y: f32[1,2,4,4] = conv2d(%b, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=3,
        members=[("w1", 0, [0, 0, 1, 1, 2, 2]), ("w2", 0, [0, 0, 1, 1, 2, 2]), ("a", 1, [0, 0, 1, 1, 2, 2]), ("b", 1), ("w3", 1)],
        gone=(2,),
        changed="""param %w1: f32[4,3,1,1]
param %w2: f32[4,1,1,1]
param %w3: f32[2,2,1,1]
%a: f32[1,4,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%b: f32[1,2,4,4] = conv_transpose2d(%a, %w2, none) {dilation=(1, 1), groups=2, output_padding=(0, 0), padding=(0, 0), stride=(1, 1)}
""",
    ),
    Case(
        name="group_norm_loses_a_channel_of_each_group",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %s: f32[6]
  param %w3: f32[2,6,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %n: f32[1,6,4,4] = group_norm(%a, %s, none) {eps=1e-05, groups=2}
  %y: f32[1,2,4,4] = conv2d(%n, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=3,
        members=[
            ("w1", 0, [0, 1, 2, 0, 1, 2]),
            ("s", 0, [0, 1, 2, 0, 1, 2]),
            ("a", 1, [0, 1, 2, 0, 1, 2]),
            ("n", 1, [0, 1, 2, 0, 1, 2]),
            ("w3", 1, [0, 1, 2, 0, 1, 2]),
        ],
        gone=(2,),
        changed="""param %w1: f32[4,3,1,1]
param %s: f32[4]
param %w3: f32[2,4,1,1]
%a: f32[1,4,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%n: f32[1,4,4,4] = group_norm(%a, %s, none) {eps=1e-05, groups=2}
""",
        renormalised=True,
    ),
    Case(
        name="group_norm_loses_a_group",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[6,3,1,1]
  param %s: f32[6]
  param %w3: f32[2,6,1,1]
  %a: f32[1,6,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %n: f32[1,6,4,4] = group_norm(%a, %s, none) {eps=1e-05, groups=2}
  %y: f32[1,2,4,4] = conv2d(%n, %w3, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=2,
        members=[
            ("w1", 0, [0, 0, 0, 1, 1, 1]),
            ("s", 0, [0, 0, 0, 1, 1, 1]),
            ("a", 1, [0, 0, 0, 1, 1, 1]),
            ("n", 1, [0, 0, 0, 1, 1, 1]),
            ("w3", 1, [0, 0, 0, 1, 1, 1]),
        ],
        gone=(0,),
        changed="""param %w1: f32[3,3,1,1]
param %s: f32[3]
param %w3: f32[2,3,1,1]
%a: f32[1,3,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%n: f32[1,3,4,4] = group_norm(%a, %s, none) {eps=1e-05, groups=1}
""",
    ),
    Case(
        name="layer_norm_rms_norm_and_embedding",
        text="""graph g(%x: i64[batch,5]) where batch in [1, 16] {
  param %table: f32[9,4]
  param %s: f32[4]
  param %g: f32[4]
  param %w: f32[3,4]
  %e: f32[batch,5,4] = embedding(%table, %x) {padding_idx=0}
  %n: f32[batch,5,4] = layer_norm(%e, %s, none) {eps=1e-05, normalized_shape=(4,)}
  %q: f32[batch,5,4] = rms_norm(%n, %g) {eps=none, normalized_shape=(4,)}
  %y: f32[batch,5,3] = linear(%q, %w, none)
  return %y
}
""",
        size=4,
        members=[("table", 1), ("s", 0), ("g", 0), ("e", 2), ("n", 2), ("q", 2), ("w", 1)],
        gone=(0, 3),
        changed="""param %table: f32[9,2]
param %s: f32[2]
param %g: f32[2]
param %w: f32[3,2]
%e: f32[batch,5,2] = embedding(%table, %x) {padding_idx=0}
%n: f32[batch,5,2] = layer_norm(%e, %s, none) {eps=1e-05, normalized_shape=(2,)}
%q: f32[batch,5,2] = rms_norm(%n, %g) {eps=none, normalized_shape=(2,)}
""",
        renormalised=True,
    ),
    Case(
        name="reshape_to_a_flat_vector",
        text="""graph g(%x: f32[batch,3,2,2]) where batch in [1, 16] {
  param %w1: f32[3,3,1,1]
  param %w2: f32[5,12]
  %a: f32[batch,3,2,2] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %f: f32[batch,12] = reshape(%a) {shape=(batch, 12)}
  %y: f32[batch,5] = linear(%f, %w2, none)
  return %y
}
""",
        size=3,
        members=[("w1", 0), ("a", 1), ("f", 1, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]), ("w2", 1, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])],
        gone=(1,),
        changed="""param %w1: f32[2,3,1,1]
param %w2: f32[5,8]
%a: f32[batch,2,2,2] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%f: f32[batch,8] = reshape(%a) {shape=(batch, 8)}
""",
    ),
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
        name="split_gate",
        text="""graph g(%x: f32[1,5,4]) {
  param %w: f32[6,4]
  param %w2: f32[4,3]
  %h: f32[1,5,6] = linear(%x, %w, none)
  %p: f32[1,5,3], %q: f32[1,5,3] = split(%h) {axis=2, sizes=(3, 3)}
  %s: f32[1,5,3] = sigmoid(%q)
  %m: f32[1,5,3] = mul(%p, %s)
  %y: f32[1,5,4] = linear(%m, %w2, none)
  return %y
}
""",
        size=3,
        members=[("w", 0, [0, 1, 2, 0, 1, 2]), ("h", 2, [0, 1, 2, 0, 1, 2]), ("p", 2), ("q", 2), ("s", 2), ("m", 2), ("w2", 1)],
        gone=(0,),
        changed="""param %w: f32[4,4]
param %w2: f32[4,2]
%h: f32[1,5,4] = linear(%x, %w, none)
%p: f32[1,5,2], %q: f32[1,5,2] = split(%h) {axis=2, sizes=(2, 2)}
%s: f32[1,5,2] = sigmoid(%q)
%m: f32[1,5,2] = mul(%p, %s)
""",
    ),
    Case(
        name="slices_and_concat",
        text="""graph g(%x: f32[2,4]) {
  param %w: f32[6,4]
  param %w2: f32[3,6]
  %h: f32[2,6] = linear(%x, %w, none)
  %l: f32[2,2] = slice(%h) {axis=1, start=0, step=1, stop=2}
  %r: f32[2,4] = slice(%h) {axis=1, start=2, step=1, stop=6}
  %c: f32[2,6] = concat(%r, %l) {axis=1}
  %y: f32[2,3] = linear(%c, %w2, none)
  return %y
}
""",
        size=4,
        members=[
            ("w", 0, [0, 1, 2, 3, -1, -1]),
            ("h", 1, [0, 1, 2, 3, -1, -1]),
            ("l", 1, [0, 1]),
            ("r", 1, [2, 3, -1, -1]),
            ("c", 1, [2, 3, -1, -1, 0, 1]),
            ("w2", 1, [2, 3, -1, -1, 0, 1]),
        ],
        gone=(1, 2),
        changed="""param %w: f32[4,4]
param %w2: f32[3,4]
%h: f32[2,4] = linear(%x, %w, none)
%l: f32[2,1] = slice(%h) {axis=1, start=0, step=1, stop=1}
%r: f32[2,3] = slice(%h) {axis=1, start=1, step=1, stop=4}
%c: f32[2,4] = concat(%r, %l) {axis=1}
""",
    ),
    Case(
        name="select_and_strided_slice",
        text="""graph g(%x: f32[2,4]) {
  param %w: f32[6,4]
  %h: f32[2,6] = linear(%x, %w, none)
  %one: f32[2] = select(%h) {axis=1, index=5}
  %s: f32[2,2] = slice(%h) {axis=1, start=1, step=3, stop=6}
  %y: f32[2] = sum(%s) {axes=(1,), keepdims=false}
  return %one, %y
}
""",
        size=6,
        members=[("w", 0), ("h", 1), ("s", 1, [1, 4])],
        gone=(0, 3, 4),
        changed="""param %w: f32[3,4]
%h: f32[2,3] = linear(%x, %w, none)
%one: f32[2] = select(%h) {axis=1, index=2}
%s: f32[2,1] = slice(%h) {axis=1, start=0, step=1, stop=1}
""",
    ),
    Case(
        name="expand_full_tile_and_pad",
        text="""graph g(%x: f32[2,4]) {
  param %w: f32[3,4]
  param %one: f32[1,3]
  param %w2: f32[3,6]
  param %w3: f32[3,6]
  %h: f32[2,3] = linear(%x, %w, none)
  %e: f32[2,3] = expand(%one) {shape=(2, 3)}
  %f: f32[2,3] = full() {dtype=f32, shape=(2, 3), value=2.0}
  %a: f32[2,3] = add(%h, %e)
  %b: f32[2,3] = mul(%a, %f)
  %t: f32[2,6] = tile(%b) {repeats=(1, 2)}
  %p: f32[2,6] = pad(%b) {mode="constant", pads=((0, 0), (1, 2)), value=0.0}
  %y: f32[2,3] = linear(%p, %w2, none)
  %z: f32[2,3] = linear(%t, %w3, none)
  return %y, %z
}
""",
        size=3,
        members=[
            ("w", 0),
            ("h", 1),
            ("one", 1),
            ("e", 1),
            ("f", 1),
            ("t", 1, [0, 1, 2, 0, 1, 2]),
            ("p", 1, [-1, 0, 1, 2, -1, -1]),
            ("a", 1),
            ("b", 1),
            ("w2", 1, [-1, 0, 1, 2, -1, -1]),
            ("w3", 1, [0, 1, 2, 0, 1, 2]),
        ],
        gone=(1,),
        changed="""param %w: f32[2,4]
param %one: f32[1,2]
param %w2: f32[3,5]
param %w3: f32[3,4]
%h: f32[2,2] = linear(%x, %w, none)
%e: f32[2,2] = expand(%one) {shape=(2, 2)}
%f: f32[2,2] = full() {dtype=f32, shape=(2, 2), value=2.0}
%a: f32[2,2] = add(%h, %e)
%b: f32[2,2] = mul(%a, %f)
%t: f32[2,4] = tile(%b) {repeats=(1, 2)}
%p: f32[2,5] = pad(%b) {mode="constant", pads=((0, 0), (1, 2)), value=0.0}
""",
    ),
    Case(
        name="pad_with_channels_that_go_and_crop",
        text="""graph g(%x: f32[2,4]) {
  param %w: f32[2,4]
  param %w2: f32[3,3]
  %h: f32[2,2] = linear(%x, %w, none)
  %p: f32[2,4] = pad(%h) {mode="constant", pads=((0, 0), (1, 1)), value=0.0}
  %c: f32[2,3] = pad(%p) {mode="constant", pads=((0, 0), (-1, 0)), value=0.0}
  %y: f32[2,3] = linear(%c, %w2, none)
  return %y
}
""",
        size=4,
        members=[("w", 0, [0, 1]), ("h", 1, [0, 1]), ("p", 1, [2, 0, 1, 3]), ("c", 1, [0, 1, 3]), ("w2", 1, [0, 1, 3])],
        gone=(1, 3),
        changed="""param %w: f32[1,4]
param %w2: f32[3,1]
%h: f32[2,1] = linear(%x, %w, none)
%p: f32[2,2] = pad(%h) {mode="constant", pads=((0, 0), (1, 0)), value=0.0}
%c: f32[2,1] = pad(%p) {mode="constant", pads=((0, 0), (-1, 0)), value=0.0}
""",
    ),
    Case(
        name="expand_from_one_and_tile_of_one",
        text="""graph g(%x: f32[2,4], %u: f32[2,1]) {
  param %w: f32[3,4]
  param %w2: f32[3,3]
  %h: f32[2,3] = linear(%x, %w, none)
  %e: f32[2,3] = expand(%u) {shape=(2, 3)}
  %t: f32[2,3] = tile(%u) {repeats=(1, 3)}
  %a: f32[2,3] = mul(%h, %e)
  %b: f32[2,3] = mul(%a, %t)
  %y: f32[2,3] = linear(%b, %w2, none)
  return %y
}
""",
        size=3,
        members=[("w", 0), ("h", 1), ("e", 1), ("t", 1), ("a", 1), ("b", 1), ("w2", 1)],
        gone=(0,),
        changed="""param %w: f32[2,4]
param %w2: f32[3,2]
%h: f32[2,2] = linear(%x, %w, none)
%e: f32[2,2] = expand(%u) {shape=(2, 2)}
%t: f32[2,2] = tile(%u) {repeats=(1, 2)}
%a: f32[2,2] = mul(%h, %e)
%b: f32[2,2] = mul(%a, %t)
""",
    ),
    Case(
        name="channel_shuffle",
        text="""graph g(%x: f32[1,3,2,2]) {
  param %w1: f32[4,3,1,1]
  param %w2: f32[3,4,1,1]
  %a: f32[1,4,2,2] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %r: f32[1,2,2,2,2] = reshape(%a) {shape=(1, 2, 2, 2, 2)}
  %p: f32[1,2,2,2,2] = permute(%r) {axes=(0, 2, 1, 3, 4)}
  %s: f32[1,4,2,2] = reshape(%p) {shape=(1, 4, 2, 2)}
  %y: f32[1,3,2,2] = conv2d(%s, %w2, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=2,
        members=[("w1", 0, [0, 1, 0, 1]), ("a", 1, [0, 1, 0, 1]), ("r", 2), ("p", 1), ("s", 1, [0, 0, 1, 1]), ("w2", 1, [0, 0, 1, 1])],
        gone=(0,),
        changed="""param %w1: f32[2,3,1,1]
param %w2: f32[3,2,1,1]
%a: f32[1,2,2,2] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%r: f32[1,2,1,2,2] = reshape(%a) {shape=(1, 2, 1, 2, 2)}
%p: f32[1,1,2,2,2] = permute(%r) {axes=(0, 2, 1, 3, 4)}
%s: f32[1,2,2,2] = reshape(%p) {shape=(1, 2, 2, 2)}
""",
    ),
    Case(
        name="pools_squeeze_and_scatter",
        text="""graph g(%x: f32[1,3,4,4]) {
  param %w1: f32[3,3,1,1]
  param %w2: f32[2,3,1,1]
  %a: f32[1,3,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %m: f32[1,3,2,2] = max_pool2d(%a) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
  %q: f32[1,3,1,1] = adaptive_avg_pool2d(%m) {output_size=(1, 1)}
  %q2: f32[1,3,4,4] = resize(%m) {align_corners=false, mode="nearest", scales=none, size=(4, 4)}
  %g: f32[1,3,4,4] = mul(%q2, %q)
  %y: f32[1,2,4,4] = conv2d(%g, %w2, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  return %y
}
""",
        size=3,
        members=[("w1", 0), ("a", 1), ("m", 1), ("q", 1), ("q2", 1), ("g", 1), ("w2", 1)],
        gone=(2,),
        changed="""param %w1: f32[2,3,1,1]
param %w2: f32[2,2,1,1]
%a: f32[1,2,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
%m: f32[1,2,2,2] = max_pool2d(%a) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
%q: f32[1,2,1,1] = adaptive_avg_pool2d(%m) {output_size=(1, 1)}
%q2: f32[1,2,4,4] = resize(%m) {align_corners=false, mode="nearest", scales=none, size=(4, 4)}
%g: f32[1,2,4,4] = mul(%q2, %q)
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
    Case(
        name="weight_norm_and_prelu",
        text="""graph g(%x: f32[1,2,4]) {
  param %v: f32[3,2,1]
  param %gg: f32[3,1,1]
  param %sl: f32[3]
  param %w2: f32[2,3,1]
  %wn: f32[3,2,1] = weight_norm(%v, %gg) {axis=0}
  %a: f32[1,3,4] = conv1d(%x, %wn, none) {dilation=(1,), groups=1, padding=(0,), stride=(1,)}
  %p: f32[1,3,4] = prelu(%a, %sl)
  %y: f32[1,2,4] = conv1d(%p, %w2, none) {dilation=(1,), groups=1, padding=(0,), stride=(1,)}
  return %y
}
""",
        size=3,
        members=[("v", 0), ("gg", 0), ("wn", 0), ("a", 1), ("sl", 0), ("p", 1), ("w2", 1)],
        gone=(1,),
        changed="""param %v: f32[2,2,1]
param %gg: f32[2,1,1]
param %sl: f32[2]
param %w2: f32[2,2,1]
%wn: f32[2,2,1] = weight_norm(%v, %gg) {axis=0}
%a: f32[1,2,4] = conv1d(%x, %wn, none) {dilation=(1,), groups=1, padding=(0,), stride=(1,)}
%p: f32[1,2,4] = prelu(%a, %sl)
""",
        renormalised=True,
    ),
    Case(
        name="counting_and_unit_matrix",
        text="""graph g(%x: f32[2,3]) {
  param %w: f32[3,4]
  %r: f32[4] = arange() {dtype=f32, start=1, step=2, stop=9}
  %i: f32[4,4] = eye() {columns=4, dtype=f32, rows=4}
  %d: f32[4,4] = mul(%i, %r)
  %u: f32[3,4] = matmul(%w, %d)
  %s: f32[3] = sum(%u) {axes=(1,), keepdims=false}
  return %s
}
""",
        size=4,
        members=[("w", 1), ("r", 0), ("i", 0), ("i", 1), ("d", 0), ("d", 1), ("u", 1)],
        gone=(3,),
        changed="""param %w: f32[3,3]
%r: f32[3] = arange() {dtype=f32, start=1, step=2, stop=7}
%i: f32[3,3] = eye() {columns=3, dtype=f32, rows=3}
%d: f32[3,3] = mul(%i, %r)
%u: f32[3,3] = matmul(%w, %d)
""",
    ),
    Case(
        name="slice_scatter_and_select_scatter",
        text="""graph g(%x: f32[2,4], %u: f32[2]) {
  param %w: f32[6,4]
  param %v: f32[2,4]
  param %w2: f32[3,6]
  %h: f32[2,6] = linear(%x, %w, none)
  %s: f32[2,2] = linear(%x, %v, none)
  %a: f32[2,6] = slice_scatter(%h, %s) {axis=1, start=2, step=1, stop=4}
  %b: f32[2,6] = select_scatter(%a, %u) {axis=1, index=5}
  %y: f32[2,3] = linear(%b, %w2, none)
  return %y
}
""",
        size=6,
        members=[("w", 0), ("v", 0, [2, 3]), ("h", 1), ("s", 1, [2, 3]), ("a", 1), ("b", 1), ("w2", 1)],
        gone=(0, 3),
        changed="""param %w: f32[4,4]
param %v: f32[1,4]
param %w2: f32[3,4]
%h: f32[2,4] = linear(%x, %w, none)
%s: f32[2,1] = linear(%x, %v, none)
%a: f32[2,4] = slice_scatter(%h, %s) {axis=1, start=1, step=1, stop=2}
%b: f32[2,4] = select_scatter(%a, %u) {axis=1, index=3}
""",
    ),
)
