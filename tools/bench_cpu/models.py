"""The networks that are measured, with random weights: name -> module and inputs.

    load("resnet50-sparse80", folder), inputs("resnet50-sparse80", batch=1)

`-sparse80` behind a name zeroes 80% of each layer's weights at random, except the first convolution or
embedding and the classifier, which people leave dense.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tools import zoo

__all__ = ["DENSE", "SPARSE", "Spec", "inputs", "load", "spec"]

DENSE = (
    "vgg16",
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "densenet121",
    "regnet_y_400mf",
    "vit_b_16",
    "bert",
    "convnext_tiny",
    "swin_t",
)
SPARSE = ("resnet50-sparse80", "resnet50-sparse90", "bert-sparse80", "bert-sparse90")

_SIDE = 224
_TOKENS = 128
_WORDS = 30522
_LEFT_DENSE = re.compile(r"embeddings|pooler|classifier|heads|head|^conv1\.|^fc\.|^features\.0\.")


@dataclass(frozen=True, slots=True)
class Spec:
    """A name taken apart: the architecture, and the part of each layer's weights that is zero."""

    name: str
    architecture: str
    sparsity: float

    @property
    def dense(self) -> str:
        """The name of the same architecture without zeros."""
        return self.architecture


class _Encoder(torch.nn.Module):
    """BERT-base as a function of token ids and attention mask to hidden states and pooled output."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        self.bert = transformers.BertModel(transformers.BertConfig())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return found.last_hidden_state, found.pooler_output


def spec(name: str) -> Spec:
    """The parts of a model's name.

    Raises:
        ValueError: the sparsity is not a whole percentage from 1 to 99.
    """
    architecture, mark, percent = name.partition("-sparse")
    if not mark:
        return Spec(name, architecture, 0.0)
    if not percent.isdigit() or not 1 <= int(percent) <= 99:
        raise ValueError(f"'{name}' ends with '-sparse{percent}', needs a percentage from 1 to 99 such as -sparse80")
    return Spec(name, architecture, int(percent) / 100)


def inputs(name: str, batch: int) -> tuple[torch.Tensor, ...]:
    """Positional inputs, the same ones each time."""
    generator = torch.Generator().manual_seed(1)
    if spec(name).architecture == "bert":
        return torch.randint(0, _WORDS, (batch, _TOKENS), generator=generator), torch.ones(batch, _TOKENS, dtype=torch.int64)
    return (torch.randn(batch, 3, _SIDE, _SIDE, generator=generator),)


def load(name: str, folder: Path) -> torch.nn.Module:
    """The module in eval mode, with the weights in `folder`; they are made when they are not there."""
    file = folder / "weights.safetensors"
    if not file.exists():
        module = _make(spec(name))
        folder.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".partial")
        save_file({key: value.clone().contiguous() for key, value in module.state_dict().items()}, fresh)
        fresh.rename(file)
        return module
    module = _Encoder() if spec(name).architecture == "bert" else _torchvision(spec(name).architecture)
    module.load_state_dict(load_file(file))
    return module.eval()


def _torchvision(architecture: str) -> torch.nn.Module:
    import torchvision

    module: Any = torchvision.models.get_model(architecture, weights=None)
    return module


def _make(what: Spec) -> torch.nn.Module:
    torch.manual_seed(0)
    if what.architecture == "bert":
        module = _Encoder().eval()
        zoo.randomise(module)
    else:
        module = zoo.build(f"torchvision:{what.architecture}").module
    if what.sparsity:
        _prune(module, what.sparsity)
    return module


def _prune(module: torch.nn.Module, ratio: float) -> None:
    """Zero `ratio` of the weights of each layer at random, exactly so many; keep the variance of its outputs."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2 or _LEFT_DENSE.search(name.removeprefix("bert.")):
                continue
            order = torch.randperm(parameter.numel(), generator=generator)
            keep = torch.ones(parameter.numel())
            keep[order[: round(ratio * parameter.numel())]] = 0.0
            parameter.mul_(keep.view_as(parameter)).div_((1 - ratio) ** 0.5)
