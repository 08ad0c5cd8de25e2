"""Second moments of what a convolution reads, and kernels fitted to them by least squares.

A patch is what one output of a convolution reads: channels x taps numbers of one group. With G = E[p p'] over patches
of calibration data, another kernel W' on the same patches errs by tr((W' - W) G (W' - W)') on average, so the best
kernel that uses only some of the taps S is found without the data at hand:

    W'_S = W_S + W_R G_RS (G_SS + r I)^-1        R: the taps that go;   r: ridge, towards the old weights

With a bias, a column of ones is one more number of the patch that stays. A fit to few patches explains them too well,
so losses are measured on images (a quarter of them) that the fit has not seen, and a fit that is worse there than
simply cutting is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch.nn import functional

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import int_of, ints_of

__all__ = ["Fit", "PatchMoments", "fit_kernel", "patch_moments", "patches_of", "windows_of"]

_RIDGE = 1e-6
"""Ridge as a fraction of the mean of the diagonal."""
_ROWS = 4096
"""Least number of patches that are looked at, as far as there are so many."""


@dataclass(frozen=True, slots=True)
class PatchMoments:
    """`gram` is float64 [groups, n + 1, n + 1] with n = channels per group x taps: means of products of a patch's
    numbers, channel by channel, and of ones behind them. `unseen` are those of other patches, to measure on."""

    gram: torch.Tensor
    unseen: torch.Tensor


@dataclass(frozen=True, slots=True)
class Fit:
    """A kernel on fewer taps: `weight` [out, in / groups, taps that stay], float64, `bias` [out] or None.

    `loss` is the squared error of the outputs over their variance, both summed over channels and averaged over
    patches that were not used to fit.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    loss: float


def patch_moments(node: Node, inputs: Sequence[torch.Tensor], kernel: tuple[int, ...], seed: int = 0) -> PatchMoments:
    """Moments over patches that a convolution reads, at random output positions where there are more than needed.

    `inputs` are the operand's values, one per batch: [batch, channels, spatial...] or without a batch axis.
    """
    groups = int_of(node.attrs["groups"])
    rank = len(kernel)
    channels = inputs[0].shape[-rank - 1] // groups
    size = channels * prod(kernel)
    sums = [torch.zeros(groups, size + 1, size + 1, dtype=torch.float64) for _ in range(2)]
    generator = torch.Generator().manual_seed(seed)
    images = sum(x.shape[0] if x.dim() == rank + 2 else 1 for x in inputs)
    wanted = ceil(max(_ROWS, 4 * size) / images)
    counts = [0, 0]
    first = 0
    for x in inputs:
        x = x if x.dim() == rank + 2 else x.unsqueeze(0)
        patches = patches_of(node, x.detach().cpu(), kernel, wanted, generator)  # [images, positions, channels, taps]
        unseen = _every_fourth(patches, first, images)
        first += x.shape[0]
        for part, mask in enumerate((~unseen, unseen)):
            rows = patches[mask].reshape(-1, groups, size).transpose(0, 1).double()
            rows = torch.cat([rows, torch.ones(groups, rows.shape[1], 1, dtype=torch.float64)], dim=2)
            sums[part] += rows.transpose(1, 2) @ rows
            counts[part] += rows.shape[1]
    gram, unseen_gram = (total / max(count, 1) for total, count in zip(sums, counts, strict=True))
    return PatchMoments(gram, unseen_gram if counts[1] else gram)


def _every_fourth(patches: torch.Tensor, first: int, images: int) -> torch.Tensor:
    """A mask [images, positions] over patches to measure on: whole images, or positions where there are few images."""
    count, positions = patches.shape[:2]
    if images >= 4:
        return ((torch.arange(first, first + count) % 4) == 3)[:, None].expand(count, positions)
    return ((torch.arange(positions) % 4) == 3)[None, :].expand(count, positions)


def windows_of(node: Node, x: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """What each output of a convolution reads (im2col), as a view of the padded input: [positions..., channels, kernel...].

    `x` is [batch, channels, spatial...], and the batch axis comes first in the result too, or without a batch axis.
    """
    rank = len(kernel)
    stride, padding, dilation = (ints_of(node.attrs[name]) for name in ("stride", "padding", "dilation"))
    padded = functional.pad(x, [side for pad in reversed(padding) for side in (pad, pad)])
    first = x.dim() - rank
    for axis in range(rank):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        padded = padded.unfold(first + axis, reach, stride[axis])[..., :: dilation[axis]]
    return padded.movedim(first - 1, first - 1 + rank)


def patches_of(node: Node, x: torch.Tensor, kernel: tuple[int, ...], wanted: int, generator: torch.Generator) -> torch.Tensor:
    """Up to `wanted` patches of each image, at the same random positions of all: [images, positions, channels, taps]."""
    windows = windows_of(node, x, kernel)
    counts = windows.shape[1 : 1 + len(kernel)]
    total = prod(counts)
    chosen = torch.randperm(total, generator=generator)[:wanted] if wanted < total else torch.arange(total)
    return windows[(slice(None), *torch.unravel_index(chosen, counts))].flatten(3)


def fit_kernel(moments: PatchMoments, weight: torch.Tensor, kept: torch.Tensor, *, bias: torch.Tensor | None) -> Fit:
    """The kernel on the taps `kept` whose outputs come nearest to the old ones.

    `weight` is [out, in / groups, taps], `kept` a mask over taps, `bias` [out] or None where it can't be changed.
    """
    groups = moments.gram.shape[0]
    out, channels, taps = weight.shape
    old = weight.double().reshape(groups, out // groups, channels * taps)
    old = torch.cat([old, torch.zeros(groups, out // groups, 1, dtype=torch.float64)], dim=2)
    stays = torch.cat([kept.repeat(channels), torch.tensor([bias is not None])])
    goes = torch.cat([~kept.repeat(channels), torch.tensor([False])])
    gram = moments.gram
    inner = gram[:, stays][:, :, stays]
    ridge = _RIDGE * inner.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    inner = inner + ridge[:, None, None] * torch.eye(inner.shape[1], dtype=torch.float64)
    change = torch.linalg.solve(inner, gram[:, stays][:, :, goes] @ old[:, :, goes].transpose(1, 2)).transpose(1, 2)
    cut = torch.zeros_like(old)
    cut[:, :, goes] = -old[:, :, goes]
    fitted = cut.clone()
    fitted[:, :, stays] = change
    mean = moments.unseen[:, -1:, :]
    variance = _energy(old, moments.unseen - mean.transpose(1, 2) @ mean)
    error, difference = min(((_energy(found, moments.unseen), found) for found in (fitted, cut)), key=lambda pair: pair[0])
    loss = error / variance if variance > 0 else (0.0 if error <= 0 else float("inf"))
    numbers = (old + difference)[:, :, :-1].reshape(out, channels, taps)[:, :, kept]
    shift = difference[:, :, -1].reshape(out)
    return Fit(numbers, None if bias is None else bias.double() + shift, max(loss, 0.0))


def _energy(rows: torch.Tensor, gram: torch.Tensor) -> float:
    return float(((rows @ gram) * rows).sum())
