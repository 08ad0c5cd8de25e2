from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.ir.parser import parse
from graphopt.ops import verify
from graphopt.passes.shrink.shrink_heads import ShrinkHeads
from graphopt.pipeline.manager import PassManager
from tests.support.folding import filled

_WEIGHTS = "".join(f"  param %{part}.weight: f32[8,6]\n" for part in "qkv")
_PARTS = "".join(f"  %{part}: f32[batch,5,8] = linear(%x, %{part}.weight, none)\n" for part in "qkv")
_SPLIT = "".join(f"  %{part}4: f32[batch,5,4,2] = reshape(%{part}) {{shape=(batch, 5, 4, 2)}}\n" for part in "qkv")
_TURNED = "".join(f"  %{part}h: f32[batch,4,5,2] = permute(%{part}4) {{axes=(0, 2, 1, 3)}}\n" for part in "qkv")
_ATTENTION = "scaled_dot_product_attention(%qh, %kh, %vh, none) {causal=false, dropout_p=0.0, grouped=false, scale=none}"
BEFORE = f"""graph g(%x: f32[batch,5,6]) where batch in [1, 8] {{
{_WEIGHTS}  param %out.weight: f32[6,8]
{_PARTS}{_SPLIT}{_TURNED}  %a: f32[batch,4,5,2] = {_ATTENTION}
  %t: f32[batch,5,4,2] = permute(%a) {{axes=(0, 2, 1, 3)}}
  %f: f32[batch,5,8] = reshape(%t) {{shape=(batch, 5, 8)}}
  %out: f32[batch,5,6] = linear(%f, %out.weight, none)
  return %out
}}
"""


def test_whole_heads_go() -> None:
    graph = PassManager([ShrinkHeads(ratio=0.5)], strict=True).run(filled(BEFORE)).graph
    verify(graph)
    assert graph.value("a").type.text == "f32[batch,2,5,2]"
    assert graph.value("a").producer.attrs["scale"] is None  # pyright: ignore[reportOptionalMemberAccess]
    assert {state.type.shape for state in graph.states.values()} == {(4, 6), (6, 4)}


def test_a_width_that_every_number_of_heads_has_is_no_limit() -> None:
    result = PassManager([ShrinkHeads(ratio=0.25, multiple_of=2)], strict=True).run(filled(BEFORE))
    assert result.records[0].notes[0].endswith(": 4 -> 3 heads")


def test_features_inside_heads_go_and_the_scale_stays() -> None:
    graph = PassManager([ShrinkHeads(ratio=0.5, heads="inside", ratios=(("v", 0),))], strict=True).run(filled(BEFORE)).graph
    verify(graph)
    assert graph.value("qh").type.text == "f32[batch,4,5,1]"
    assert graph.value("a").type.text == "f32[batch,4,5,2]"
    assert graph.value("a").producer.attrs["scale"] == pytest.approx(2**-0.5)  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(("first", "unit"), [((), "features"), (("lossless-training",), "heads")])
def test_multihead_attention_with_a_symbolic_batch(first: tuple[str, ...], unit: str) -> None:
    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = torch.nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mix(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    model = Attention().eval()
    x = torch.randn(3, 6, 32)
    passes = [*first, 'shrink-heads{ratio=0.25, importance="l2"}']
    result = graphopt.optimize(model, passes, example_inputs=(x,), dynamic={"x": {0: "batch"}}, check="off")
    assert result.pipeline.records[-1].notes[0].endswith({"heads": "4 -> 3 heads", "features": "8 -> 6 features"}[unit])
    verify(result.graph)
    assert result.module(x[:2]).shape == (2, 6, 32)


def test_the_text_above_is_canonical() -> None:
    assert str(parse(BEFORE)) == BEFORE
