from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.capture.examples import example_call
from graphopt.errors import ExampleInputError


def shapes(call: Any) -> Any:
    args, kwargs = call
    described = {name: tuple(item.shape) if isinstance(item, torch.Tensor) else item for name, item in kwargs.items()}
    return [tuple(item.shape) for item in args], described


class Masked(nn.Linear):
    def forward(self, input: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:  # noqa: A002
        return super().forward(input) if mask is None else super().forward(input) * mask


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.ones(2, 3), ([(2, 3)], {})),
        ([torch.ones(2, 3), torch.ones(2, 4)], ([(2, 3), (2, 4)], {})),
        ({"input": (2, 3)}, ([(2, 3)], {})),
        ({"mask": ((2, 4), torch.int64), "input": torch.ones(2, 3)}, ([(2, 3)], {"mask": (2, 4)})),
    ],
)
def test_given(given: Any, expected: Any) -> None:
    assert shapes(example_call(Masked(3, 4), given)) == expected


def test_shapes_get_the_dtype_of_the_parameters_and_the_same_numbers_each_time() -> None:
    model = nn.Linear(3, 4).double()
    first, second = (example_call(model, {"input": (2, 3)})[0][0] for _ in range(2))
    assert isinstance(first, torch.Tensor)
    assert first.dtype is torch.float64
    assert torch.equal(first, second)  # pyright: ignore[reportArgumentType]
    assert capture(model.eval(), {"input": (2, 3)}).inputs[0].type.text == "f64[2,3]"


def test_entry_that_is_no_shape() -> None:
    with pytest.raises(ExampleInputError, match="'input' is 'big', needs a tensor or a shape"):
        example_call(nn.Linear(3, 4), {"input": "big"})


def test_lightning_convention() -> None:
    model = nn.Linear(3, 4)
    model.example_input_array = torch.ones(5, 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert shapes(example_call(model, None)) == ([(5, 3)], {})


def test_timm_convention() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", pretrained=False)
    assert shapes(example_call(model, None)) == ([(1, *model.pretrained_cfg["input_size"])], {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet1_1", [(1, 3, 224, 224)]),
        ("inception_v3", [(1, 3, 299, 299)]),
        ("r3d_18", [(1, 3, 16, 112, 112)]),
        ("raft_small", [(1, 3, 224, 224), (1, 3, 224, 224)]),
        ("lraspp_mobilenet_v3_large", [(1, 3, 224, 224)]),
    ],
)
def test_torchvision_convention(name: str, expected: Any) -> None:
    torchvision = pytest.importorskip("torchvision")
    options = {"init_weights": False} if name == "inception_v3" else {}
    if name.startswith("lraspp"):
        options = {"weights_backbone": None}
    assert shapes(example_call(torchvision.models.get_model(name, weights=None, **options), None)) == (expected, {})


def test_torchvision_detectors_point_to_their_backbone() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    with pytest.raises(ExampleInputError, match=r"list of images(.|\n)*model\.backbone"):
        capture(model.eval())
    assert capture(model.backbone.eval(), (torch.randn(1, 3, 64, 64),)).node_count > 100


def test_transformers_convention() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, bos_token_id=1, eos_token_id=2)
    args, kwargs = shapes(example_call(transformers.GPT2LMHeadModel(config), None))
    assert args == []
    assert len(kwargs["input_ids"]) == 2
    assert kwargs["use_cache"] is False
    vision = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    assert shapes(example_call(transformers.ViTModel(vision), None)) == ([], {"pixel_values": (1, 3, 32, 32)})
