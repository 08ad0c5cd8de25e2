from __future__ import annotations

import pytest

from graphopt.errors import PassError, PassOptionError
from graphopt.passes.shrink.shrink_neurons import ShrinkNeurons
from graphopt.pipeline.manager import PassManager
from tests.support.folding import filled

CONV = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
BEFORE = f"""graph g(%x: f32[batch,3,4,4]) where batch in [1, 8] {{
  param %stem.weight: f32[6,3,1,1]
  param %fc1.weight: f32[8,6]
  param %fc1.bias: f32[8]
  param %fc2.weight: f32[5,8]
  %stem: f32[batch,6,4,4] = conv2d(%x, %stem.weight, none) {CONV}
  %pool: f32[batch,6] = mean(%stem) {{axes=(2, 3), keepdims=false}}
  %fc1: f32[batch,8] = linear(%pool, %fc1.weight, %fc1.bias)
  %act: f32[batch,8] = gelu(%fc1) {{approximate="none"}}
  %fc2: f32[batch,5] = linear(%act, %fc2.weight, none)
  return %fc2
}}
"""


def test_neurons_go_and_channels_stay() -> None:
    result = PassManager([ShrinkNeurons(ratio=0.5)], strict=True).run(filled(BEFORE))
    shapes = {name: state.type.shape for name, state in result.graph.states.items()}
    assert shapes == {"stem.weight": (6, 3, 1, 1), "fc1.weight": (4, 6), "fc1.bias": (4,), "fc2.weight": (5, 4)}
    assert result.records[0].notes == ("fc1: 8 -> 4 neurons",)
    assert ("stem", "its units are channel units, not neuron") in result.records[0].skipped


def test_a_graph_without_neurons_says_so() -> None:
    text = f"""graph g(%x: f32[1,3,4,4]) {{
  param %stem.weight: f32[6,3,1,1]
  param %last.weight: f32[6,6,1,1]
  %stem: f32[1,6,4,4] = conv2d(%x, %stem.weight, none) {CONV}
  %last: f32[1,6,4,4] = conv2d(%stem, %last.weight, none) {CONV}
  return %last
}}
"""
    with pytest.raises(PassOptionError, match="the graph has no groups of neuron units that can be cut, only of channel units"):
        ShrinkNeurons(ratio=0.5).run(filled(text))


def test_strict_gives_the_words_of_the_error_and_no_other_advice() -> None:
    graph = filled("graph g(%x: f32[1,4]) {\n  param %w: f32[3,4]\n  %y: f32[1,3] = linear(%x, %w, none)\n  return %y\n}\n")
    with pytest.raises(PassError) as found:
        PassManager([ShrinkNeurons(ratio=0.5)], strict=True).run(graph)
    assert str(found.value).endswith("\n  fix: graphopt show --groups lists the reasons")
    assert str(found.value).count("fix:") == 1
