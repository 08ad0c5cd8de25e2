"""Convolutions: dense, depthwise, grouped and transposed."""

from __future__ import annotations

from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES"]

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
)
