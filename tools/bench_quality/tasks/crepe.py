"""CREPE tiny (Kim et al. 2018; weights of torchcrepe): pitch of noisy tones to within 50 cents."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tools.bench_quality.data.tones import BIN_CENTS, FIRST_CENTS, tones
from tools.bench_quality.packages import folder_of
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task, in_batches

__all__ = ["CrepeTiny"]

_BATCH = 64
_DECIBELS = 5.0
_SPLITS = {"train": (8000, 0), "validation": (1000, 1), "test": (2000, 2)}
"""Number of tones and seed of each split."""
_STUBS = ("torchaudio", "librosa", "resampy")
"""Packages that torchcrepe imports for reading and resampling files, which nothing here does."""


class CrepeTiny(Task):
    """0.5 million parameters, trained on music by others."""

    name = "crepe"
    title = "CREPE tiny (2,000 made tones, 5 dB above noise)"
    scores = ("within 50 cents",)
    batch = 1
    width = 4
    levels = (0.15, 0.3, 0.5)
    budgets = (0.75, 0.6, 0.4)
    schedule = Schedule(steps=100, rate=1e-3)

    def dense(self) -> torch.nn.Module:
        """The package's weights; batch norms follow their input in training."""
        folder = folder_of("torchcrepe")
        missing = [name for name in _STUBS if name not in sys.modules]
        for name in missing:
            sys.modules[name] = types.ModuleType(name)
        try:
            import torchcrepe  # pyright: ignore[reportMissingImports]  # fetched for this task only
        finally:
            for name in missing:
                del sys.modules[name]
        module: Any = torchcrepe.Crepe("tiny")
        module.load_state_dict(torch.load(folder / "assets" / "tiny.pth", weights_only=True))
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.1
        return module.eval()

    @cached_property
    def _tones(self) -> dict[str, tuple[torch.Tensor, NDArray[numpy.float64]]]:
        found = {split: tones(count, _DECIBELS, seed) for split, (count, seed) in _SPLITS.items()}
        return {split: (torch.from_numpy(frames), pitch) for split, (frames, pitch) in found.items()}

    def _item(self, rows: torch.Tensor) -> Item:
        frames, pitch = self._tones["train"]
        centre = torch.from_numpy((pitch[rows.numpy()] - FIRST_CENTS) / BIN_CENTS)
        return Item((frames[rows],), centre.round().long().clamp(0, 359))

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """The first test tones."""
        return (self._tones["test"][0][:batch],)

    def calibration(self, seed: int) -> list[Item]:
        """Four batches of 32 tones to train on: each has hundreds of windows, and a layer of 8,192 columns reads them."""
        order = torch.randperm(_SPLITS["train"][0], generator=torch.Generator().manual_seed(seed))
        return [self._item(order[start : start + 32]) for start in range(0, 128, 32)]

    def stream(self, seed: int) -> Iterator[Item]:
        """Tones to train on in random order."""
        generator = torch.Generator().manual_seed(1000 + seed)
        while True:
            order = torch.randperm(_SPLITS["train"][0], generator=generator)
            for start in range(0, len(order) - _BATCH + 1, _BATCH):
                yield self._item(order[start : start + _BATCH])

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy of each bin with the dense network's, which is how CREPE was trained."""
        del target
        return functional.binary_cross_entropy(output, teacher) * 100.0

    def evaluate(self, module: torch.nn.Module, split: str) -> dict[str, Hits]:
        """The middle of the strongest bin is within 50 cents of the pitch."""
        frames, pitch = self._tones[split]
        found = in_batches(module, (frames,), 100).argmax(1).numpy() * BIN_CENTS + FIRST_CENTS
        return {"within 50 cents": numpy.abs(found - pitch) <= 50.0}

    def protected(self, module: torch.nn.Module) -> list[torch.nn.Module]:
        """The classifier, and the last convolution: the network flattens its channels last, which others take for channels first."""
        network: Any = module
        return [network.classifier, network.conv6]
