from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from graphopt.capture import capture
from graphopt.errors import GraphoptWarning, UsageError
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from tests.support.capturing import body, capture_checked, run


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.bn(self.conv(x)))
        return self.act(self.drop(y) + 1)


def test_text_of_a_small_network() -> None:
    graph = capture_checked(Block(), (torch.randn(2, 3, 5, 5),), dynamic={0: "batch"})
    assert show(graph) == (
        "graph Block(%x: f32[batch,3,5,5]) where batch in [1, inf] {\n"
        "  param %conv.weight: f32[4,3,3,3]\n"
        "  param %bn.weight: f32[4]\n"
        "  param %bn.bias: f32[4]\n"
        "  buffer %bn.running_mean: f32[4]\n"
        "  buffer %bn.running_var: f32[4]\n"
        "  buffer %bn.num_batches_tracked: i64[]\n"
        "  %conv: f32[batch,4,5,5] = conv2d(%x, %conv.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}\n"
        "  %bn: f32[batch,4,5,5] = batch_norm(%conv, %bn.weight, %bn.bias, %bn.running_mean, %bn.running_var) "
        '{eps=1e-05, mode="follow", momentum=0.1}\n'
        "  %act: f32[batch,4,5,5] = relu(%bn)\n"
        '  %drop: f32[batch,4,5,5] = dropout(%act) {mode="follow", p=0.1}\n'
        "  %add: f32[batch,4,5,5] = add(%drop, 1)\n"
        "  %act_1: f32[batch,4,5,5] = relu(%add)\n"
        "  return %act_1\n"
        "}\n"
    )
    assert parse(show(graph)) == graph


def test_nodes_know_module_path_file_and_line() -> None:
    graph = capture_checked(nn.Sequential(Block()), (torch.randn(1, 3, 5, 5),))
    conv = graph.value("0.conv").producer
    add = graph.value("0.add").producer
    assert conv is not None
    assert add is not None
    assert (conv.source.module, add.source.module) == ("0.conv", "0")
    assert conv.source.file.endswith("tests/capture/test_capture.py")
    assert not conv.source.file.startswith("/")
    assert add.source.line == conv.source.line + 1


def test_train_mode_is_told_and_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    model[1].eval()
    with pytest.warns(GraphoptWarning, match=r"train mode \(3 of 4 modules\)") as caught:
        graph = capture(model, (torch.randn(4, 3),))
    assert len([w for w in caught if w.category is GraphoptWarning]) == 1
    assert caught[0].filename.endswith("test_capture.py")
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert [node.attrs["mode"] for node in graph.nodes if "mode" in node.attrs] == ["follow", "follow"]


def test_statistics_without_buffers_are_pinned_to_train_mode() -> None:
    graph = capture_checked(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm1d(3)), (torch.randn(4, 3, 5),))
    assert [node.attrs["mode"] for node in graph.nodes] == ["train", "train"]


def test_momentum_none_is_kept() -> None:
    graph = capture_checked(nn.BatchNorm1d(3, momentum=None), (torch.randn(4, 3),))
    node = graph.first_node
    assert node is not None
    assert node.attrs["momentum"] is None


def test_parameters_are_shared_not_copied() -> None:
    model = nn.Linear(3, 2).eval()
    state = capture(model, (torch.randn(1, 3),)).states["weight"]
    assert state.data is not None
    assert state.data.tensor().data_ptr() == model.weight.data_ptr()


def test_graph_module_and_module_of_an_exported_program() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.randn(2, 3)
    wanted = body(capture(model, (x,)))
    assert body(capture(fx.symbolic_trace(model).eval(), (x,))) == wanted
    program = torch.export.export(model, (x,))
    assert body(capture(program)) == wanted
    assert [line.split(" = ")[1].split("(")[0] for line in body(capture(program.module(), (x,)))] == ["linear", "relu"]


def test_exported_program_in_train_mode_is_pinned() -> None:
    program = torch.export.export(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train(), (torch.randn(2, 3),))
    graph = capture(program)
    assert [node.attrs["mode"] for node in graph.nodes] == ["train", "train"]


def test_decomposed_program() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(36)).eval()
    x = torch.randn(1, 3, 8, 8)
    graph = capture(torch.export.export(model, (x,)).run_decompositions())
    assert [node.op for node in graph.nodes] == ["conv2d", "batch_norm", "max_pool2d", "reshape", "layer_norm"]
    torch.testing.assert_close(run(graph, (x,))[0], model(x))


def test_what_capture_does_not_take() -> None:
    with pytest.raises(UsageError, match="got str"):
        capture("resnet18")  # pyright: ignore[reportArgumentType]
    program = torch.export.export(nn.Linear(3, 3), (torch.randn(2, 3),))
    with pytest.raises(UsageError, match="brings its inputs"):
        capture(program, (torch.randn(2, 3),))
