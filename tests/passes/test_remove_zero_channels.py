from __future__ import annotations

import pytest
import torch

from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.remove_zero_channels import RemoveZeroChannels
from tests.support.folding import check_pass, filled

PLAIN = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
BEFORE = f"""graph g(%x: f32[2,3,6,6]) {{
  param %w1: f32[8,3,1,1]
  param %w2: f32[4,8,1,1]
  %a: f32[2,8,6,6] = conv2d(%x, %w1, none) {PLAIN}
  %b: f32[2,8,6,6] = relu(%a)
  %y: f32[2,4,6,6] = conv2d(%b, %w2, none) {PLAIN}
  return %y
}}
"""
AFTER = f"""graph g(%x: f32[2,3,6,6]) {{
  param %w1_folded: f32[5,3,1,1]
  param %w2_folded: f32[4,5,1,1]
  %a_1: f32[2,5,6,6] = conv2d(%x, %w1_folded, none) {PLAIN}
  %b_1: f32[2,5,6,6] = relu(%a_1)
  %y: f32[2,4,6,6] = conv2d(%b_1, %w2_folded, none) {PLAIN}
  return %y
}}
"""


def _zero(graph: Graph, name: str, *, rows: tuple[int, ...] = (), columns: tuple[int, ...] = ()) -> None:
    data = graph.states[name].data
    assert data is not None
    data.tensor()[list(rows)] = 0
    if columns:
        data.tensor()[:, list(columns)] = 0


def test_zero_rows_and_unread_channels_go() -> None:
    graph = filled(BEFORE)
    _zero(graph, "w1", rows=(2, 5))
    _zero(graph, "w2", columns=(7,))
    check_pass(RemoveZeroChannels(), graph, rewritten=3)
    assert show(graph) == AFTER
    check_pass(RemoveZeroChannels(), graph, rewritten=0)


def test_an_annotation_is_true_of_what_is_left() -> None:
    graph = filled(BEFORE.replace("%w2: f32[4,8,1,1]", "%w2: f32[4,8,1,1] sparse<unstructured 0.375>"))
    _zero(graph, "w2", rows=(0,), columns=(7,))
    _zero(graph, "w2", rows=(1,))
    _zero(graph, "w1", rows=(2, 5))
    check_pass(RemoveZeroChannels(), graph, rewritten=3)
    assert graph.states["w2_folded"].type.text == "f32[4,5,1,1] sparse<unstructured 0.5>"


def test_nothing_to_do_and_no_numbers() -> None:
    check_pass(RemoveZeroChannels(), filled(BEFORE), rewritten=0)
    assert RemoveZeroChannels().run(parse(BEFORE)).rewritten == 0


def test_one_channel_is_kept() -> None:
    graph = filled(BEFORE)
    _zero(graph, "w1", rows=tuple(range(8)))
    check_pass(RemoveZeroChannels(), graph, rewritten=7)
    assert graph.states["w1_folded"].type.text == "f32[1,3,1,1]"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("softmax(%a) {axis=1}", "%b is a softmax that mixes them"),
        ("exp(%a)", "a layer reads it where it is no longer zero, or it is the only one"),
    ],
)
def test_what_stays_says_why(op: str, reason: str) -> None:
    graph = filled(BEFORE.replace("relu(%a)", op))
    _zero(graph, "w1", rows=(2,))
    (skipped,) = check_pass(RemoveZeroChannels(), graph, rewritten=0).skipped
    assert skipped == ("a", f"channel 2 is zero, but {reason}")


@pytest.mark.parametrize(
    ("width", "rows", "named"), [(8, (2, 5), "2, 5"), (16, tuple(range(4, 15)), "4, 5, 6, 7, 8, 9, 10, 11 and 3 more")]
)
def test_an_output_keeps_its_channels(width: int, rows: tuple[int, ...], named: str) -> None:
    wide = BEFORE.replace("return %y", "return %y, %b").replace("f32[8,3,", f"f32[{width},3,").replace("f32[4,8,", f"f32[4,{width},")
    graph = filled(wide.replace("f32[2,8,", f"f32[2,{width},"))
    _zero(graph, "w1", rows=rows)
    (skipped,) = check_pass(RemoveZeroChannels(), graph, rewritten=0).skipped
    assert skipped == ("a", f"channels {named} are zero, but %b is an output")


def test_groups_other_than_depthwise_keep_their_channels() -> None:
    text = BEFORE.replace("f32[4,8,1,1]", "f32[4,4,1,1]").replace(
        f"conv2d(%b, %w2, none) {PLAIN}", f"conv2d(%b, %w2, none) {PLAIN}".replace("groups=1", "groups=2")
    )
    graph = filled(text)
    _zero(graph, "w1", rows=(2,))
    (skipped,) = check_pass(RemoveZeroChannels(), graph, rewritten=0).skipped
    assert skipped[1].endswith("%y is a conv2d that mixes them")


def test_through_batch_norm_depthwise_pool_concat_and_addition() -> None:
    graph = filled(f"""graph g(%x: f32[n,3,6,6]) where n in [1, 4] {{
  param %w1: f32[8,3,1,1]
  param %b1: f32[8]
  param %dw: f32[8,1,3,3]
  param %gamma: f32[8]
  param %beta: f32[8]
  buffer %mean: f32[8]
  buffer %var: f32[8]
  param %scale: f32[8,1,1]
  param %w3: f32[8,8,1,1]
  param %w4: f32[5,16]
  %a: f32[n,8,6,6] = conv2d(%x, %w1, %b1) {PLAIN}
  %r: f32[n,8,6,6] = gelu(%a) {{approximate="none"}}
  %d: f32[n,8,6,6] = conv2d(%r, %dw, none) {{dilation=(1, 1), groups=8, padding=(1, 1), stride=(1, 1)}}
  %bn: f32[n,8,6,6] = batch_norm(%d, %gamma, %beta, %mean, %var) {{eps=1e-05, mode="follow", momentum=0.1}}
  %c: f32[n,8,6,6] = conv2d(%bn, %w3, none) {PLAIN}
  %scaled: f32[n,8,6,6] = mul(%scale, %c)
  %s: f32[n,8,6,6] = add(%scaled, %bn)
  %k: f32[n,16,6,6] = concat(%s, %r) {{axis=1}}
  %p: f32[n,16,2,2] = max_pool2d(%k) {{ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(0, 0), stride=(3, 3)}}
  %m: f32[n,16] = mean(%p) {{axes=(2, 3), keepdims=false}}
  %t: f32[n,1,16] = reshape(%m) {{shape=(n, 1, 16)}}
  %q: f32[1,n,16] = permute(%t) {{axes=(1, 0, 2)}}
  %y: f32[1,n,5] = linear(%q, %w4, none)
  return %y
}}""")
    for name in ("w1", "b1", "beta", "mean"):
        _zero(graph, name, rows=(2, 5))
    _zero(graph, "w3", rows=(2,))  # channel 5 is made anew by %c
    result = check_pass(RemoveZeroChannels(), graph, rewritten=1)
    assert result.notes == ("1 channel taken out",)
    assert [node.result.type.text for node in graph.nodes if node.op in ("concat", "permute")] == ["f32[n,14,6,6]", "f32[1,n,14]"]
    assert next(node for node in graph.nodes if node.op == "conv2d" and node.attrs["groups"] != 1).attrs["groups"] == 7


def test_transposed_convolutions_and_shared_weights() -> None:
    graph = filled(f"""graph g(%x: f32[2,3,4,4], %z: f32[2,3,4,4]) {{
  param %w1: f32[8,3,1,1]
  param %up: f32[8,4,2,2]
  param %w2: f32[5,4,1,1]
  %a: f32[2,8,4,4] = conv2d(%x, %w1, none) {PLAIN}
  %b: f32[2,4,8,8] = conv_transpose2d(%a, %up, none) {{dilation=(1, 1), groups=1, output_padding=(0, 0), padding=(0, 0), stride=(2, 2)}}
  %y: f32[2,5,8,8] = conv2d(%b, %w2, none) {PLAIN}
  %other: f32[2,8,4,4] = conv2d(%z, %w1, none) {PLAIN}
  return %y, %other
}}""")
    _zero(graph, "w1", rows=(1, 6))
    _zero(graph, "up", columns=(3,))
    check_pass(RemoveZeroChannels(), graph, rewritten=3)
    assert {name: state.type.text for name, state in graph.states.items()} == {
        "w1": "f32[8,3,1,1]",
        "w1_folded": "f32[6,3,1,1]",
        "up_folded_1": "f32[6,3,2,2]",
        "w2_folded": "f32[5,3,1,1]",
    }


def test_padding_to_a_multiple_of_eight_goes() -> None:
    graph = filled("""graph g(%x: f16[3,4]) {
  param %w1: f16[16,4]
  param %b1: f16[16]
  param %w2: f16[4,16]
  %a: f16[3,16] = linear(%x, %w1, %b1)
  %b: f16[3,16] = silu(%a)
  %y: f16[3,4] = linear(%b, %w2, none)
  return %y
}""")
    for name in ("w1", "b1"):
        _zero(graph, name, rows=tuple(range(11, 16)))
    check_pass(RemoveZeroChannels(), graph, rewritten=5)
    assert graph.states["b1_folded"].type.text == "f16[11]"


def test_a_nan_weight_is_not_zero() -> None:
    graph = filled(BEFORE)
    _zero(graph, "w1", rows=(2,))
    data = graph.states["w1"].data
    assert data is not None
    data.tensor()[2, 0] = torch.nan
    check_pass(RemoveZeroChannels(), graph, rewritten=0)


def test_a_layer_that_reads_along_another_axis_keeps_all() -> None:
    """Tokens stand where channels were tracked: a mask over them must not be taken for one over features."""
    graph = filled(f"""graph g(%x: f32[1,3,4,1]) {{
  param %w1: f32[4,3,1,1]
  param %w2: f32[5,4]
  %a: f32[1,4,4,1] = conv2d(%x, %w1, none) {PLAIN}
  %t: f32[1,4,4] = reshape(%a) {{shape=(1, 4, 4)}}
  %y: f32[1,4,5] = linear(%t, %w2, none)
  return %y
}}
""")
    _zero(graph, "w1", rows=(1, 2))
    check_pass(RemoveZeroChannels(), graph, rewritten=0)
