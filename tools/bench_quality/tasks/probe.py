"""Linear probes: logistic regression on a network's outputs, fitted once on those of the dense network.

The probe stays as it is when the network is shrunk, as a classifier that somebody trained on its outputs would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tools.bench_quality.packages import need
from tools.bench_quality.tasks.base import Hits

__all__ = ["Probe", "fitted"]


class Probe:
    """A linear classifier on normalised features."""

    def __init__(self, numbers: dict[str, NDArray[numpy.float32]]) -> None:
        self._weight, self._bias = torch.from_numpy(numbers["weight"]), torch.from_numpy(numbers["bias"])
        self._mean, self._scale = torch.from_numpy(numbers["mean"]), torch.from_numpy(numbers["scale"])

    def hits(self, features: torch.Tensor, labels: NDArray[numpy.int64]) -> Hits:
        """For each row of features whether its class is right."""
        with torch.inference_mode():
            logits = ((features - self._mean) / self._scale) @ self._weight.T + self._bias
        return logits.argmax(1).numpy() == labels


def fitted(file: Path, features: Callable[[], torch.Tensor], labels: NDArray[numpy.int64], strength: float = 1.0) -> Probe:
    """The probe in `file`; fitted on `features` and written if it is not there. `strength` is scikit-learn's C.

    Raises:
        MissingDataError: scikit-learn is not installed.
    """
    if not file.exists():
        need("sklearn")
        from sklearn.linear_model import LogisticRegression

        found = features().numpy().astype(numpy.float64)
        mean, scale = found.mean(axis=0), numpy.full(found.shape[1], found.std() + 1e-9)
        model = LogisticRegression(C=strength, max_iter=500).fit((found - mean) / scale, labels)
        numbers = {"weight": model.coef_, "bias": model.intercept_, "mean": mean, "scale": scale}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: numpy.ascontiguousarray(value, numpy.float32) for key, value in numbers.items()}, file)
    return Probe(load_file(file))
