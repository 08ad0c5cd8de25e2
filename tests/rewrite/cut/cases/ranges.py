"""Ranges of axes: slices, splits, concatenations, pads and what is scattered into them."""

from __future__ import annotations

from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES"]

CASES = (
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
