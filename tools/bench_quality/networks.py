"""The two small networks that are trained here: a residual one and one of inverted residuals."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["InvertedResidual", "Residual", "small_mobilenet", "small_resnet"]


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if changes else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the same or a quarter of the area."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise, project by 1x1, with a shortcut where shapes allow (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_norm(inputs, hidden, 1, 1, 1)
        self.depthwise = _conv_norm(hidden, hidden, 3, stride, hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the same or a quarter of the area."""
        inner = self.project(self.depthwise(self.expand(x)))
        return x + inner if self.has_shortcut else inner


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=False))


def _classifier(layers: list[tuple[str, nn.Module]], features: int) -> nn.Module:
    head: list[tuple[str, nn.Module]] = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(features, 10))]
    return nn.Sequential(OrderedDict([*layers, *head]))


def small_resnet() -> nn.Module:
    """Colour pictures (n, 3, 32, 32) to ten classes: 695,000 parameters, 27 million multiply-adds a picture."""
    layers: list[tuple[str, nn.Module]] = [("stem", _conv_norm(3, 32, 3, 2, 1))]
    width = 32
    for stage, (outputs, stride) in enumerate(((32, 1), (64, 2), (128, 2)), 1):
        layers += [(f"layer{stage}", nn.Sequential(Residual(width, outputs, stride), Residual(outputs, outputs, 1)))]
        width = outputs
    return _classifier(layers, width)


def small_mobilenet() -> nn.Module:
    """Grey pictures (n, 1, 28, 28) to ten classes."""
    layers: list[tuple[str, nn.Module]] = [("stem", _conv_norm(1, 32, 3, 2, 1))]
    width = 32
    for stage, (outputs, stride) in enumerate(((32, 1), (48, 2), (80, 2)), 1):
        blocks = [InvertedResidual(width, outputs, stride, 4), InvertedResidual(outputs, outputs, 1, 4)]
        layers += [(f"stage{stage}", nn.Sequential(*blocks))]
        width = outputs
    layers += [("last", _conv_norm(width, 256, 1, 1, 1))]
    return _classifier(layers, 256)
