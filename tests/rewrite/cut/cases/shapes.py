"""Shapes: reshape, expand, tile, shuffles, pools, and tensors that are made from sizes."""

from __future__ import annotations

from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES"]

CASES = (
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
)
