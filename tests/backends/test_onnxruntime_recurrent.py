"""Recurrent networks with their weights as states, which is how models have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.backends.onnxruntime import OnnxRuntimeBackend, to_onnx
from graphopt.capture import capture

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "relu"])
def test_recurrent_network(kind: str, layers: int, bidirectional: bool, bias: bool) -> None:
    torch.manual_seed(0)
    options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "batch_first": layers == 2}
    made = {"lstm": nn.LSTM, "gru": nn.GRU}
    model = made[kind](3, 5, **options) if kind in made else nn.RNN(3, 5, nonlinearity=kind, **options)
    model.eval()
    x = torch.randn(4, 2, 3)
    graph = capture(model, (x,))
    executable = OnnxRuntimeBackend().lower(graph, threads=1)
    assert executable.report == ()
    found, state = executable(x)
    wanted, wanted_state = model(x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(state, wanted_state)


def test_one_node_per_layer() -> None:
    graph = capture(nn.LSTM(3, 5, num_layers=2).eval(), (torch.randn(4, 2, 3),))
    assert [node.op_type for node in to_onnx(graph).graph.node].count("LSTM") == 2
