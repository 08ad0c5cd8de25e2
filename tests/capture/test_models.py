"""Real models at small sizes: the graph equals the model in float32 and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.capturing import capture_checked, opaque_ops
from tools.zoo import build, randomise

OPTIONS: dict[str, dict[str, Any]] = {
    "inception_v3": {"init_weights": False},
    "googlenet": {"init_weights": False},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
}

# Side of the image, and whether to compare in float64 too.
TORCHVISION = {
    "resnet18": (64, True),
    "mobilenet_v2": (32, False),
    "mobilenet_v3_small": (32, True),
    "densenet121": (32, False),
    "googlenet": (32, False),
    "inception_v3": (96, False),
    "shufflenet_v2_x0_5": (32, True),
    "swin_t": (64, False),
    "deeplabv3_mobilenet_v3_large": (32, False),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    randomise(model)
    side, double = TORCHVISION[name]
    graph = capture_checked(model, (torch.randn(2, 3, side, side),), dynamic={0: "batch"}, double=double)
    assert opaque_ops(graph) == set()
    assert str(graph.inputs[0].shape[0]) == "batch"


def test_vision_transformer() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.VisionTransformer(image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=64)
    randomise(model)
    assert opaque_ops(capture_checked(model, (torch.randn(2, 3, 32, 32),), dynamic={0: "batch"})) == set()


def test_video() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.video.r3d_18(weights=None).eval()
    assert opaque_ops(capture_checked(model, (torch.randn(1, 3, 4, 32, 32),))) == set()


TIMM = ["levit_128s", "efficientvit_b0"]


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    pytest.importorskip("timm")
    zoo = build(f"timm:{name}")
    capture_checked(zoo.module, zoo.args, zoo.kwargs, double=False)


# Where a model computes in float32 on purpose, its own float64 run does too: only the float32 runs are compared.
TRANSFORMERS = {
    "bert": True,
    "gpt2": True,
    "llama": False,
    "t5": False,
    "bart": True,
    "mixtral": False,
    "mamba": False,
    "deberta": False,
    "swin": True,
    "sam": True,
    "rwkv": False,
    "clip": True,
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    zoo = build(f"transformers:{name}")
    if name == "rwkv":
        zoo.module(*zoo.args, **zoo.kwargs)  # rescales its weights at the first call
    graph = capture_checked(zoo.module, zoo.args, zoo.kwargs, double=TRANSFORMERS[name])
    assert opaque_ops(graph) <= {"aten.histc.default", "transformers.grouped_mm_fallback.default"}
