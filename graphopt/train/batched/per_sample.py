"""Gradients of single samples, by `torch.func.vmap` over `grad` and not by a loop.

    for chunk in per_sample_gradients(module, loss, (x,), y):
        chunk["weight"]                    [samples of the chunk, *shape]: the gradient of each sample's own loss

    fisher_diagonal(module, loss, [((x,), y), ...])["weight"]     mean over samples of g^2

Chunks are as large as `chunk_bytes` allows for gradients. Where the network has an op that vmap can't do, samples are
run one by one, with the same result. The module runs in the mode that it is in; in train mode batch norms would mix
samples, so use eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.train.batched.accumulate import row_count
from graphopt.train.batched.mixing import mixing_part

__all__ = ["CHUNK_BYTES", "RowGradients", "RowLoss", "SampleGradients", "fisher_diagonal", "per_sample_gradients"]

CHUNK_BYTES = 256 << 20
"""Most memory for gradients of single samples (bytes), by default."""

Loss = Callable[[Any, Any], torch.Tensor]
RowLoss: TypeAlias = Callable[..., torch.Tensor]
"""(weights by name, tensors of one sample...) -> its loss."""

RowGradients: TypeAlias = Callable[..., dict[str, torch.Tensor]]
"""(batches of one sample...) -> gradients by name."""


def per_sample_gradients(
    module: nn.Module, loss: Loss, inputs: Sequence[torch.Tensor], target: torch.Tensor | None, *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[dict[str, torch.Tensor]]:
    """The gradients of `loss(module(*one sample), its target)` for all parameters that require them, in chunks of samples.

    `loss` gets batches of one sample. Nothing is written to the parameters' own gradients.

    Raises:
        UsageError: rows differ, or the module is in train mode and has batch norms, or no parameter requires a gradient.
    """
    row_count(inputs, target)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not weights:
        raise UsageError("no parameter of the module requires a gradient", fix="module.requires_grad_(True)")
    norm = mixing_part(module)
    if norm is not None:
        raise UsageError(
            f"'{norm}' is a batch norm with statistics of the batch it sees: samples have no gradients of their own",
            fix="call module.eval() first",
        )

    def of_one(weights: dict[str, torch.Tensor], *sample: torch.Tensor) -> torch.Tensor:
        parts = [tensor[None] for tensor in sample]
        count = len(inputs)
        found = torch.func.functional_call(module, weights, tuple(parts[:count]))
        return loss(found, parts[count] if target is not None else None)

    given = [*inputs, *([] if target is None else [target])]
    yield from SampleGradients(chunk_bytes=chunk_bytes, randomness="different").chunks(of_one, weights, given)


class SampleGradients:
    """Gradients of functions of one sample, many at once by `vmap`, and one by one from the first time on that it can't."""

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, randomness: Literal["error", "different"] = "error") -> None:
        self._chunk_bytes, self._randomness = chunk_bytes, randomness
        self._vectorised = True

    def chunks(
        self, loss: RowLoss, weights: dict[str, torch.Tensor], samples: Sequence[torch.Tensor], alone: RowGradients | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The gradients of `loss(weights, *one sample)` by the weights, with samples on axis 0, a chunk after the other.

        `loss` gets the samples without axis 0. `alone` computes the gradients of one sample where vmap can't, from batches
        of one; by default it is `torch.func.grad`.
        """
        gradient = torch.func.grad(loss)
        rows = samples[0].shape[0]
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        chunk = max(1, min(rows, self._chunk_bytes // max(size, 1)))
        for start in range(0, rows, chunk):
            parts = [tensor[start : start + chunk] for tensor in samples]
            if self._vectorised:
                try:
                    yield torch.func.vmap(gradient, in_dims=(None, *[0] * len(parts)), randomness=self._randomness)(weights, *parts)
                    continue
                except (RuntimeError, ValueError, IndexError):  # what is wrong with the data shows once more below
                    self._vectorised = False
            found = [
                gradient(weights, *(part[row] for part in parts)) if alone is None else alone(*(part[row : row + 1] for part in parts))
                for row in range(parts[0].shape[0])
            ]
            yield {name: torch.stack([one[name] for one in found]) for name in weights}


def fisher_diagonal(
    module: nn.Module,
    loss: Loss,
    batches: Iterable[tuple[Sequence[torch.Tensor], torch.Tensor | None]],
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher matrix: mean over all samples of squared gradients, float64, by parameter name.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, equation 8.

    Raises:
        UsageError: as `per_sample_gradients`, or there are no batches.
    """
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for inputs, target in batches:
        for chunk in per_sample_gradients(module, loss, inputs, target, chunk_bytes=chunk_bytes):
            for name, found in chunk.items():
                squares = found.double().square().sum(0)
                sums[name] = sums[name] + squares if name in sums else squares
            count += next(iter(chunk.values())).shape[0]
    if not count:
        raise UsageError("there are no batches to take gradients of", fix="give at least one batch; a generator can be gone through once")
    return {name: total / count for name, total in sums.items()}
