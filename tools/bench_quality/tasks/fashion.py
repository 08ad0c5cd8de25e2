"""The residual net on Fashion-M and the net of inverted residuals on Fashion-MNIST."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy
import torch
from torch.nn import functional

from tools.bench_quality.data.fashion import Images, fashion_m, fashion_mnist
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task
from tools.bench_quality.training import checkpoint, hits

__all__ = ["MobilenetFashion", "ResnetFashion"]

_BATCH = 64


class _Fashion(Task):
    scores = ("accuracy",)
    batch = 8
    width = 8
    levels = (0.15, 0.3, 0.45, 0.6)
    budgets = (0.75, 0.6, 0.45, 0.3)
    schedule = Schedule(steps=200, rate=2e-3, gentle_rate=2e-4)

    @cached_property
    def images(self) -> dict[str, Images]:
        """The splits."""
        return self.make_images()

    @abstractmethod
    def make_images(self) -> dict[str, Images]:
        """Read the splits."""

    def dense(self) -> torch.nn.Module:
        """The checkpoint; trained now if there is none."""
        return checkpoint(self.name, self.root / "checkpoints", self.images)

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """The first test pictures."""
        return (self.images["test"].batch(slice(0, batch))[0],)

    def calibration(self, seed: int) -> list[Item]:
        """Eight batches of 64 training pictures."""
        rows = numpy.random.default_rng(seed).permutation(len(self.images["train"]))[:512]
        return [self._item(numpy.sort(rows[start : start + 64])) for start in range(0, 512, 64)]

    def _item(self, rows: numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]) -> Item:
        pixels, labels = self.images["train"].batch(rows)
        return Item((pixels,), labels)

    def stream(self, seed: int) -> Iterator[Item]:
        """Training pictures in random order, some mirrored."""
        random = numpy.random.default_rng(1000 + seed)
        while True:
            order = random.permutation(len(self.images["train"]))
            for start in range(0, len(order) - _BATCH + 1, _BATCH):
                item = self._item(numpy.sort(order[start : start + _BATCH]))
                mirrored = torch.from_numpy(random.random(_BATCH) < 0.5)[:, None, None, None]
                yield Item((torch.where(mirrored, item.inputs[0].flip(3), item.inputs[0]),), item.target)

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy with the labels and with the dense network's softened outputs (Hinton et al. 2015), half each."""
        assert target is not None, "the pictures have labels"
        soft = functional.kl_div((output / 2).log_softmax(1), (teacher / 2).log_softmax(1), reduction="batchmean", log_target=True)
        return 0.5 * functional.cross_entropy(output, target) + 0.5 * 4.0 * soft

    def evaluate(self, module: torch.nn.Module, split: str) -> dict[str, Hits]:
        """Right classes."""
        return {"accuracy": hits(module, self.images[split])}


class ResnetFashion(_Fashion):
    """A residual net, trained here."""

    name = "resnet"
    title = "Small ResNet on Fashion-M (10,000 test pictures, 32x32)"

    def make_images(self) -> dict[str, Images]:
        """Pictures laid over photographs."""
        return fashion_m(self.root / "data")


class MobilenetFashion(_Fashion):
    """A net of inverted residuals, trained here."""

    name = "mobilenet"
    title = "Small MobileNet on Fashion-MNIST (10,000 test pictures, 28x28)"

    def make_images(self) -> dict[str, Images]:
        """The pictures as they are."""
        return fashion_mnist(self.root / "data")
