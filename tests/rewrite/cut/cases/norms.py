"""Norms, embeddings and weights that are normalised."""

from __future__ import annotations

from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES"]

CASES = (
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
)
