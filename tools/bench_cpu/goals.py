"""What the CPU backend set out to reach: time of the best float32 peer over ours, batch 1, 2 threads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The ratio that is required and the one that is hoped for."""

    floor: float
    target: float


GOALS = {
    "vgg16": Goal(2.6, 3.0),
    "resnet18": Goal(1.7, 2.1),
    "resnet34": Goal(1.7, 2.1),
    "resnet50": Goal(1.15, 1.3),
    "mobilenet_v2": Goal(1.2, 1.4),
    "mobilenet_v3_small": Goal(1.2, 1.4),
    "efficientnet_b0": Goal(1.2, 1.4),
    "shufflenet_v2_x1_0": Goal(1.1, 1.3),
    "squeezenet1_1": Goal(1.1, 1.3),
    "densenet121": Goal(1.1, 1.3),
    "regnet_y_400mf": Goal(1.1, 1.3),
    "vit_b_16": Goal(1.0, 1.1),
    "bert": Goal(1.0, 1.1),
    "convnext_tiny": Goal(1.0, 1.1),
    "swin_t": Goal(1.0, 1.1),
    "resnet50-sparse80": Goal(2.2, 2.8),
    "resnet50-sparse90": Goal(3.3, 4.4),
    "bert-sparse80": Goal(2.7, 3.3),
    "bert-sparse90": Goal(4.0, 5.0),
}
