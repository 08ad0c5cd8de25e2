"""Plans as golden text; they need no GPU and no Triton."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import graphopt
from graphopt.backends.cuda.lowering import plan_graph
from graphopt.backends.cuda.options import CudaOptions

PAGE = Path(__file__).parents[3] / "docs" / "backend-cuda.md"


def plan_of(text: str, dtype: str = "float32") -> str:
    return plan_graph(graphopt.parse(text), {}, CudaOptions(dtype=dtype)).text


def steps_of(text: str, dtype: str = "float32") -> list[str]:
    """Algorithm and description of each step."""
    program = plan_graph(graphopt.parse(text), {}, CudaOptions(dtype=dtype))
    assert program.plan is not None
    return [f"{step.work.algorithm}: {step.work.describe()}" for step in program.plan.steps]


def test_the_example_of_the_page() -> None:
    graph, plan = (re.search(rf"^```\n({word} .*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE) for word in ("graph", "plan"))
    assert graph is not None
    assert plan is not None
    assert plan_of(graph[1], "float16") == plan[1]


class MBConv(torch.nn.Module):
    """The block of EfficientNet: wider, depthwise, squeezed and excited, narrower, added."""

    def __init__(self, channels: int, wide: int, squeezed: int) -> None:
        super().__init__()
        self.expand = torch.nn.Sequential(torch.nn.Conv2d(channels, wide, 1, bias=False), torch.nn.BatchNorm2d(wide), torch.nn.SiLU())
        depthwise = torch.nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False)
        self.depthwise = torch.nn.Sequential(depthwise, torch.nn.BatchNorm2d(wide), torch.nn.SiLU())
        self.fc1, self.fc2 = torch.nn.Conv2d(wide, squeezed, 1), torch.nn.Conv2d(squeezed, wide, 1)
        self.project = torch.nn.Sequential(torch.nn.Conv2d(wide, channels, 1, bias=False), torch.nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        scale = torch.nn.functional.adaptive_avg_pool2d(y, 1)
        return x + self.project(y * torch.sigmoid(self.fc2(torch.nn.functional.silu(self.fc1(scale)))))


BLOCK = """\
plan MBConv for cuda, float32: 11 steps, one stream, arena 1.4 MiB, weights 122.2 KiB
  input0 f32[1,40,28,28] channels last
  0   library             convolution 1x1 40->240 @28x28                           -> t0 f32[1,240,28,28] channels last    expand.0
  1   elementwise         mul + add + silu f32[1,240,28,28] channels last          -> t0 f32[1,240,28,28] channels last    expand.0
  2   depthwise           depthwise 5x5 stride 1x1 f32[1,240,28,28] channels last + mul + add + silu -> b0 f32[1,240,28,28] channels last    depthwise.0
  3   reduce              mean over (2, 3) of f32[1,240,28,28] channels last       -> b1 f32[1,240,1,1]    adaptive_avg_pool2d
  4   library             convolution 1x1 240->10 @1x1                             -> t2 f32[1,10,1,1]    fc1
  5   elementwise         add + silu f32[1,10,1,1]                                 -> t2 f32[1,10,1,1]    fc1
  6   library             convolution 1x1 10->240 @1x1                             -> t3 f32[1,240,1,1]    fc2
  7   elementwise         add + sigmoid f32[1,240,1,1]                             -> t3 f32[1,240,1,1]    fc2
  8   elementwise         mul f32[1,240,28,28] channels last                       -> b2 f32[1,240,28,28] channels last    mul
  9   library             convolution 1x1 240->40 @28x28                           -> t4 f32[1,40,28,28] channels last    project.0
  10  elementwise         mul + add + add f32[1,40,28,28] channels last            -> t4 f32[1,40,28,28] channels last    project.0
  return t4 f32[1,40,28,28] channels last
  stream 0: steps 0 to 10 in order
  arena 1505280 bytes
    b0   at 0              752640 bytes    steps 2 to 8
    b1   at 752640            960 bytes    steps 3 to 4
    b2   at 752640         752640 bytes    steps 8 to 9
"""  # noqa: E501


def test_a_block_of_a_real_network_in_float32() -> None:
    graph = graphopt.capture(MBConv(40, 240, 10).eval(), (torch.randn(1, 40, 28, 28),))
    assert plan_graph(graph, {}, CudaOptions()).text == BLOCK


def test_a_residual_and_relu_are_one_pass_behind_the_convolution() -> None:
    text = """\
graph residual(%x: f32[2,8,6,6]) {
  param %weight: f32[8,8,3,3]
  param %bias: f32[8]
  %a: f32[2,8,6,6] = conv2d(%x, %weight, %bias) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
  %b: f32[2,8,6,6] = add(%a, %x)
  %c: f32[2,8,6,6] = relu(%b)
  return %c
}
"""
    assert steps_of(text) == ["library: convolution 3x3 8->8 @6x6", "elementwise: add + add + relu f32[2,8,6,6] channels last"]


def test_tokens_of_an_image_are_a_view() -> None:
    text = """\
graph tokens(%x: f32[1,3,8,8]) {
  param %weight: f32[16,3,4,4]
  param %scale: f32[16]
  param %shift: f32[16]
  %a: f32[1,16,2,2] = conv2d(%x, %weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(4, 4)}
  %b: f32[1,16,4] = reshape(%a) {shape=(1, 16, 4)}
  %c: f32[1,4,16] = permute(%b) {axes=(0, 2, 1)}
  %d: f32[1,4,16] = layer_norm(%c, %scale, %shift) {eps=1e-05, normalized_shape=(16,)}
  return %d
}
"""
    assert steps_of(text) == ["library: convolution 4x4 stride 4x4 3->16 @2x2", "normalize: layer_norm over (2) of f32[1,4,16]"]


def test_an_activation_behind_a_group_norm_is_its_epilogue() -> None:
    text = """\
graph block(%x: f32[2,8,6,6], %r: f32[2,8,6,6]) {
  param %weight: f32[8,8,3,3]
  param %scale: f32[8]
  param %shift: f32[8]
  %a: f32[2,8,6,6] = conv2d(%x, %weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
  %b: f32[2,8,6,6] = group_norm(%a, %scale, %shift) {eps=1e-05, groups=4}
  %c: f32[2,8,6,6] = silu(%b)
  %d: f32[2,8,6,6] = add(%c, %r)
  %e: f32[2,8,6,6] = instance_norm(%d, none, none, none, none) {eps=1e-05, mode="train", momentum=0.1}
  %f: f32[2,8,6,6] = relu(%e)
  return %f
}
"""
    split = "f32[2,4,2,6,6] strides(288,2,1,48,8)"
    assert steps_of(text) == [
        "library: convolution 3x3 8->8 @6x6",
        f"normalize: group_norm over (2, 3, 4) of {split} + silu + add",
        "normalize: instance_norm over (2, 3, 4) of f32[2,8,1,6,6] channels last + relu",
    ]


def test_what_no_kernel_does_is_a_torch_step_with_its_reason() -> None:
    text = """\
graph sums(%x: f32[2,8]) {
  %a: f32[2,8] = cumsum(%x) {axis=1}
  %b: f32[2,8] = relu(%a)
  return %b
}
"""
    program = plan_graph(graphopt.parse(text), {}, CudaOptions())
    assert program.foreign == (("a", "cumsum", "no kernel computes cumsum"),)
    assert steps_of(text) == ["torch: cumsum of f32[2,8]", "elementwise: relu f32[2,8]"]


def test_memory_of_what_no_longer_lives_is_used_again() -> None:
    lines = [f"  %v{number}: f32[64,64] = softmax(%v{number - 1}) {{axis=1}}" for number in range(1, 9)]
    text = "\n".join(["graph long(%v0: f32[64,64]) {", *lines, "  return %v8", "}", ""])
    program = plan_graph(graphopt.parse(text), {}, CudaOptions())
    assert program.plan is not None
    assert program.plan.arena_bytes == 2 * 64 * 64 * 4


def test_names_of_the_model_are_in_comments_only() -> None:
    text = "graph strange_graph(%strange_input: f32[4]) {\n  %strange_result: f32[4] = relu(%strange_input)\n  return %strange_result\n}\n"
    source = plan_graph(graphopt.parse(text), {}, CudaOptions()).source
    assert not any("strange" in line for line in source.splitlines()[1:] if not line.lstrip().startswith("#"))


def test_text_of_a_program() -> None:
    text = """\
graph tiny(%x: f32[2,40]) {
  %a: f32[2,40] = gelu(%x) {approximate="none"}
  %b: f32[2,40] = cumsum(%a) {axis=1}
  return %b
}
"""
    source = plan_graph(graphopt.parse(text), {}, CudaOptions(dtype="float16")).source
    assert (
        source[source.index("def run") :]
        == """\
def run(memory, node):
    input0 = memory["input0"]
    b0 = memory["b0"]
    # 0: elementwise  gelu f16[2,40]   a
    kernel_0[(1,)](input0, b0, num_warps=2, num_stages=3)
    # 1: torch  cumsum of f16[2,40]   b
    t0, = node(1, view(b0, (2, 40), (40, 1), 0)); t0 = laid_out(t0, "float16", (2, 40), (40, 1))
    return (view(t0, (2, 40), (40, 1), 0),)
"""
    )


def test_an_op_may_read_an_image_twice() -> None:
    text = """\
graph twice(%x: f32[1,2,3,3]) {
  %a: f32[1,4,3,3] = concat(%x, %x) {axis=1}
  %b: f32[1,4,1,1] = adaptive_avg_pool2d(%a) {output_size=(1, 1)}
  return %b
}
"""
    assert len(steps_of(text)) == 2
