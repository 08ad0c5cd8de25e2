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
from typing import Any

import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.train.batched.accumulate import row_count
from graphopt.train.batched.mixing import mixing_part

__all__ = ["CHUNK_BYTES", "fisher_diagonal", "per_sample_gradients"]

CHUNK_BYTES = 256 << 20
"""Most memory for gradients of single samples (bytes), by default."""

Loss = Callable[[Any, Any], torch.Tensor]


def per_sample_gradients(
    module: nn.Module, loss: Loss, inputs: Sequence[torch.Tensor], target: torch.Tensor | None, *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[dict[str, torch.Tensor]]:
    """The gradients of `loss(module(*one sample), its target)` for all parameters that require them, in chunks of samples.

    `loss` gets batches of one sample. Nothing is written to the parameters' own gradients.

    Raises:
        UsageError: rows differ, or the module is in train mode and has batch norms, or no parameter requires a gradient.
    """
    rows = row_count(inputs, target)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not weights:
        raise UsageError("no parameter of the module requires a gradient", fix="module.requires_grad_(True)")
    norm = mixing_part(module)
    if norm is not None:
        raise UsageError(
            f"'{norm}' is a batch norm with statistics of the batch it sees: samples have no gradients of their own",
            fix="call module.eval() first",
        )
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    chunk = max(1, min(rows, chunk_bytes // max(size, 1)))

    def of_one(weights: dict[str, torch.Tensor], *sample: torch.Tensor) -> torch.Tensor:
        parts = [tensor[None] for tensor in sample]
        count = len(inputs)
        found = torch.func.functional_call(module, weights, tuple(parts[:count]))
        return loss(found, parts[count] if target is not None else None)

    gradient = torch.func.grad(of_one)
    given = [*inputs, *([] if target is None else [target])]
    vectorised = True
    for start in range(0, rows, chunk):
        parts = [tensor[start : start + chunk] for tensor in given]
        if vectorised:
            try:
                yield torch.func.vmap(gradient, in_dims=(None, *[0] * len(parts)), randomness="different")(weights, *parts)
                continue
            except RuntimeError:
                vectorised = False
        single = [gradient(weights, *(part[row] for part in parts)) for row in range(parts[0].shape[0])]
        yield {name: torch.stack([found[name] for found in single]) for name in weights}


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
