from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt
from graphopt.passes.remove.split_attention_heads import SplitAttentionHeads
from tests.support.pass_checks import check_kept, check_rewrite

BEFORE = """
graph g(%q: f32[5,b,12], %k: f32[7,b,12], %v: f32[7,b,6]{extra}) where b in [1, inf] {{
  %qh: f32[5,3*b,4] = reshape(%q) {{shape=(5, 3*b, 4)}}
  %kh: f32[7,3*b,4] = reshape(%k) {{shape=(7, 3*b, 4)}}
  %vh: f32[7,3*b,2] = reshape(%v) {{shape=(7, 3*b, 2)}}
  %qm: f32[3*b,5,4] = permute(%qh) {{axes=(1, 0, 2)}}
  %kt: f32[3*b,4,7] = permute(%kh) {{axes=(1, 2, 0)}}
  %km: f32[3*b,7,4] = permute(%kt) {{axes=(0, 2, 1)}}
  %vm: f32[3*b,7,2] = permute(%vh) {{axes=(1, 0, 2)}}
  %qs: f32[3*b,5,4] = mul(%qm, 0.25)
  %a: f32[3*b,5,2] = scaled_dot_product_attention(%qs, %km, %vm, {mask}) {{causal=false, dropout_p=0.0, grouped=false, scale=2.0}}
  %p: f32[5,3*b,2] = permute(%a) {{axes=(1, 0, 2)}}
  %y: f32[5*b,6] = reshape(%p) {{shape=(5*b, 6)}}
  return %y
}}
"""
AFTER = """
graph g(%q: f32[5,b,12], %k: f32[7,b,12], %v: f32[7,b,6]{extra}) where b in [1, inf] {{
  %reshape: f32[5,b,3,4] = reshape(%q) {{shape=(5, b, 3, 4)}}
  %permute: f32[b,3,5,4] = permute(%reshape) {{axes=(1, 2, 0, 3)}}
  %reshape_1: f32[7,b,3,4] = reshape(%k) {{shape=(7, b, 3, 4)}}
  %permute_1: f32[b,3,7,4] = permute(%reshape_1) {{axes=(1, 2, 0, 3)}}
  %reshape_2: f32[7,b,3,2] = reshape(%v) {{shape=(7, b, 3, 2)}}
  %permute_2: f32[b,3,7,2] = permute(%reshape_2) {{axes=(1, 2, 0, 3)}}
  %scaled_dot_product_attention: f32[b,3,5,2] = scaled_dot_product_attention(%permute, %permute_1, %permute_2, {mask})
      {{causal=false, dropout_p=0.0, grouped=false, scale=0.5}}
  %permute_3: f32[5,b,3,2] = permute(%scaled_dot_product_attention) {{axes=(2, 0, 1, 3)}}
  %p: f32[5,3*b,2] = reshape(%permute_3) {{shape=(5, 3*b, 2)}}
  %y: f32[5*b,6] = reshape(%p) {{shape=(5*b, 6)}}
  return %y
}}
"""


@pytest.mark.parametrize("shape", [None, "5,7", "1,5,7"])
def test_batch_and_heads_are_told_apart(shape: str | None) -> None:
    parts = {"extra": "", "mask": "none"} if shape is None else {"extra": f", %m: f32[{shape}]", "mask": "%m"}
    check_rewrite(SplitAttentionHeads(), BEFORE.format(**parts), AFTER.format(**parts))


def test_masks_of_single_heads_stay() -> None:
    check_kept(
        SplitAttentionHeads(),
        BEFORE.format(extra=", %m: f32[3*b,5,7]", mask="%m"),
        "the mask has its own numbers for each head of each sample",
    )


def test_what_is_read_elsewhere_stays() -> None:
    text = BEFORE.format(extra="", mask="none").replace("  return %y\n", "  return %y, %a\n")
    check_kept(SplitAttentionHeads(), text, "the result is not put back to [L, B*H, D] by one permute")


def test_grouped_heads_stay() -> None:
    text = BEFORE.format(extra="", mask="none").replace("grouped=false", "grouped=true")
    check_kept(SplitAttentionHeads(), text, "its heads are grouped")


def test_scales_that_are_whole_numbers_count() -> None:
    text = BEFORE.format(extra="", mask="none").replace("scale=2.0", "scale=2")
    check_rewrite(SplitAttentionHeads(), text, AFTER.format(extra="", mask="none"))


class Attending(nn.Module):
    """The default of nn.MultiheadAttention: it computes its weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.attention(x, x, x)[0])


@pytest.mark.parametrize("preset", ["lossless", "lossless-training"])
def test_whole_heads_of_attention_that_gives_its_weights_can_go_at_any_batch(preset: str) -> None:
    torch.manual_seed(0)
    module = Attending().eval()
    graph = graphopt.capture(module, (torch.randn(2, 7, 32),), dynamic=({0: "batch"},))
    result = graphopt.optimize(graph, [preset, "shrink-heads{ratio=0.5}"], strict=True)
    assert any("4 -> 2 heads" in note for note in result.pipeline.records[-1].notes)
    assert result.module(torch.randn(3, 7, 32)).shape == (3, 7, 5)
    kept = graphopt.optimize(graph, [preset], strict=True).module
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(kept(x), module(x))
