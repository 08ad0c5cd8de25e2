"""The folding passes on real architectures: what is left of the graph, and the float64 check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torchvision.models as models
from torch import nn
from torchvision.models.resnet import BasicBlock

from graphopt.capture import capture
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.pipeline.registry import resolve
from tests.support.folding import largest_difference

FOLDS = (
    "fold-constants",
    "merge-duplicate-constants",
    "fold-parameters",
    "form-linear",
    "fold-batch-norm",
    "merge-affine",
    "merge-parallel-layers",
    "fold-batch-norm",
    "merge-linear-layers",
    "remove-zero-channels",
    "merge-duplicate-parameters",
)


def _randomised(model: nn.Module) -> nn.Module:
    """Statistics, scales and shifts that are not 0 and 1, so that a wrong fold shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def _folded(model: nn.Module, *inputs: torch.Tensor) -> tuple[Counter[str], Counter[str]]:
    """Ops before and after all folds; checks types and numbers on the way."""
    graph: Graph = capture(_randomised(model), inputs)
    before = graph.clone()
    for pass_ in (step for text in FOLDS for step in resolve(text)):
        pass_.run(graph)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # no repeats among them
        verify(graph)
    assert largest_difference(before, graph) <= 1e-9
    return Counter(node.op for node in before.nodes), Counter(node.op for node in graph.nodes)


CONVOLUTIONAL: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
    "mobilenet_v2": lambda: models.mobilenet_v2(width_mult=0.25),
    "shufflenet_v2": models.shufflenet_v2_x0_5,
    "googlenet": lambda: models.googlenet(init_weights=False),
    "regnet": models.regnet_y_400mf,
}
LARGE = ("googlenet", "regnet")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in CONVOLUTIONAL])
def test_every_batch_norm_goes(name: str) -> None:
    before, after = _folded(CONVOLUTIONAL[name](), torch.randn(1, 3, 32, 32))
    assert before["batch_norm"] > 0
    assert after["batch_norm"] == 0
    assert after.total() <= before.total() - before["batch_norm"]


def test_densenet_keeps_the_batch_norms_before_its_relus() -> None:
    model = models.DenseNet(growth_rate=4, block_config=(2, 2, 1, 1), num_init_features=8, bn_size=2, num_classes=5)
    before, after = _folded(model, torch.randn(1, 3, 32, 32))
    assert (before["batch_norm"], after["batch_norm"]) == (17, 10)  # the first, and the second of each dense layer


def test_layer_scales_of_convnext_go() -> None:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    model = ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], stochastic_depth_prob=0.0, layer_scale=0.3, num_classes=5)
    before, after = _folded(model, torch.randn(1, 3, 32, 32))
    assert (before["mul"], after["mul"]) == (3, 0)


def test_masks_and_query_scales_of_swin_go() -> None:
    model = models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5, stochastic_depth_prob=0.0)
    before, after = _folded(model, torch.randn(1, 3, 64, 64))
    assert before["full"] > 0
    assert not after.keys() & {"full", "where", "ne", "sub", "mul", "slice_scatter", "index"}


@pytest.mark.slow
def test_branches_of_repvgg_become_one_convolution() -> None:
    timm = pytest.importorskip("timm")
    before, after = _folded(timm.create_model("repvgg_a0", num_classes=5), torch.randn(1, 3, 64, 64))
    assert before["batch_norm"] > 50
    assert after["conv2d"] == 22
    assert not after.keys() & {"batch_norm", "add"}


def test_masks_of_bert_fold() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    model = transformers.BertModel(transformers.BertConfig(**sizes))
    before, after = _folded(model, torch.randint(0, 50, (2, 8)))
    assert after.total() < before.total() - 8
    assert after["linear"] == before["linear"]
