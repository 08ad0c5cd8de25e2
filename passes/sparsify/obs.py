"""Optimal brain surgery on one weight matrix: which weights go, and how the others make up for it.

Outputs are y = W x. With H = E[x x'] the mean squared error of other weights is tr((W' - W) H (W' - W)'). Setting w[j] of
a row to zero costs least when the row moves along  -w[j] / inv(H)[j, j] * inv(H)[j, :], an error of  w[j]^2 / inv(H)[j, j].

Columns are gone through from left to right for all rows at once. With the upper Cholesky factor U of inv(H), row j of U
holds the update for the columns from j on once those before j are final, so one factorisation serves all rows and steps
(Frantar & Alistarh, SparseGPT, ICML 2023, section 3). Updates beyond a block of columns are applied once per block.

In a network whose layers in front are sparse already, x is no longer what W read when it was dense, d. The weights that give on x
what W gave on d, as well as they can, are  W + W (C - H) inv(H),  C = E[d x'] (`aimed`), and are what is made sparse then.

Weights to the left of a zero are final when it is made. `refine` lets them take part too: conjugate gradients over all
weights that stay, with the zeros held, each step of which lowers the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.errors import PassError
from graphopt.passes.sparsify.patterns import NOfM, Pattern, UnitPattern, column_block, lowest

__all__ = ["Pruned", "aimed", "best_pruned", "error_of", "prune", "refined"]

_ROWS = 512
"""Rows that are worked on together."""

_BLOCK = 128
"""Columns whose zeros are chosen together, with the weights as the blocks before have left them."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """New weights [outputs, columns], float64, zero under `goes`."""

    weight: torch.Tensor
    goes: torch.Tensor


def aimed(weight: torch.Tensor, gram: torch.Tensor, cross: torch.Tensor, *, damping: float) -> torch.Tensor:
    """The weights that on x come nearest to the outputs of `weight` on d; `gram` is E[x x'], `cross` E[d x'].

    `damping`, in parts of the mean diagonal of `gram`, keeps them near `weight` where the data says little.
    """
    upper = _inverse_factor(gram, damping)
    return weight + (weight @ (cross - gram)) @ upper.T @ upper


def best_pruned(
    weight: torch.Tensor,
    gram: torch.Tensor,
    pattern: Pattern,
    ratio: float,
    *,
    damping: float,
    steps: int,
    aim: torch.Tensor | None = None,
) -> Pruned:
    """The matrix with the least error of three: zeros chosen by second-order information, by |w|, and by |w| times the size of the input.

    The error is that against the outputs of `aim`, which is `weight` unless it is given. The one that is best after one step of
    refinement takes the others of `steps`. The error is never more than that of setting the smallest weights of `weight` to zero.
    Memory: five matrices of the weight's size at a time, and four of `gram`'s.
    """
    aim = weight if aim is None else aim
    sizes = gram.diagonal().clamp_min(0).sqrt()
    best: Pruned | None = None
    least = float("inf")
    for scale in (None, torch.ones_like(sizes), (sizes + 1e-6 * sizes.max().clamp_min(1e-30)).reciprocal()):
        if scale is None:
            start = prune(aim, gram, pattern, ratio, damping=damping)
        else:
            goes = _Chooser(pattern, ratio).choose(weight, scale, weight == 0)
            start = Pruned(torch.where(goes, 0.0, weight), goes)
        for found in (start, refined(start, aim, gram, damping=damping, steps=min(steps, 1))):
            error = error_of(found.weight, aim, gram)
            if best is None or error < least:
                best, least = found, error
    assert best is not None, "there are three starts"
    last = refined(best, aim, gram, damping=damping, steps=max(steps - 1, 0))
    return last if error_of(last.weight, aim, gram) < least else best


def prune(weight: torch.Tensor, gram: torch.Tensor, pattern: Pattern, ratio: float, *, damping: float, block: int = _BLOCK) -> Pruned:
    """Choose zeros of a matrix [outputs, columns] and update the rest; `gram` is H, `damping` in parts of its mean diagonal.

    Weights that are zero stay so: they go first, and take no part in the updates.

    Raises:
        PassError: H can't be factorised however it is damped: it is not finite.
    """
    columns = weight.shape[1]
    upper = _inverse_factor(gram, damping)
    chooser = _Chooser(pattern, ratio)
    held = weight == 0
    weight = weight.clone()
    goes = torch.zeros(weight.shape, dtype=torch.bool)
    width = column_block(pattern, block)
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        part, factor = weight[:, start:stop].clone(), upper[start:stop, start:stop]
        diagonal = factor.diagonal()
        errors = torch.zeros_like(part)
        step = pattern.m if isinstance(pattern, NOfM) else stop - start
        chosen = goes[:, start:stop]
        for j in range(stop - start):
            if j % step == 0:
                chosen[:, j : j + step] = chooser.choose(
                    part[:, j : j + step], diagonal[j : j + step], held[:, start + j : start + min(j + step, stop - start)]
                )
            error = torch.where(chosen[:, j], part[:, j], 0.0) / diagonal[j]
            part[:, j:] -= torch.outer(error, factor[j, j:])
            part[:, j] = torch.where(chosen[:, j], 0.0, part[:, j])
            errors[:, j] = error
        weight[:, start:stop] = part
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return Pruned(weight, goes)


class _Chooser:
    """Chooses the zeros of some columns after another; what one has too little by rounding, the next has more."""

    def __init__(self, pattern: Pattern, ratio: float) -> None:
        self._pattern = pattern
        self._ratio = ratio
        self._seen = self._gone = 0

    def choose(self, weight: torch.Tensor, diagonal: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """A mask over some columns [rows, width], with all of `held`: the weights that were zero before any update."""
        scores = torch.where(held, 0.0, (weight / diagonal).square())
        pattern = self._pattern
        if isinstance(pattern, NOfM):
            order = scores.reshape(len(scores), -1, pattern.m).argsort(dim=2, stable=True)[:, :, : pattern.m - pattern.n]
            mask = torch.zeros(len(scores), scores.shape[1] // pattern.m, pattern.m, dtype=torch.bool)
            return mask.scatter_(2, order, True).reshape(scores.shape) | held
        assert isinstance(pattern, UnitPattern), "patterns are of units or N:M"
        self._seen += scores.numel()
        share = min(max((self._ratio * self._seen - self._gone) / scores.numel(), 0.0), 1.0)
        units, sizes = pattern.unit_scores(scores)
        empty = pattern.unit_scores(held.double())[0] == 1
        mask = pattern.spread(lowest(units.flatten(), sizes.flatten(), share).reshape(units.shape) | empty, *scores.shape)
        self._gone += int(mask.sum())
        return mask | held


def refined(start: Pruned, weight: torch.Tensor, gram: torch.Tensor, *, damping: float, steps: int) -> Pruned:
    """Move the weights that stay towards the least error against `weight`, by conjugate gradients, each row by itself."""
    if not steps:
        return start
    matrix = _damped(gram, damping)
    found = torch.empty_like(start.weight)
    for part in _row_parts(weight):
        found[part] = _refined_rows(start.weight[part], weight[part], ~start.goes[part], matrix, steps)
    return Pruned(found, start.goes)


def _refined_rows(start: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor, matrix: torch.Tensor, steps: int) -> torch.Tensor:
    scale = matrix.diagonal().reciprocal()
    current = start.clone()
    residual = torch.where(kept, (weight - current) @ matrix, 0.0)
    direction = solved = residual * scale
    product = (residual * solved).sum(1, keepdim=True)
    for _ in range(steps):
        image = torch.where(kept, direction @ matrix, 0.0)
        curvature = (direction * image).sum(1, keepdim=True)
        length = torch.where(curvature > 0, product / curvature, 0.0)
        current = current + length * direction
        residual = residual - length * image
        solved = residual * scale
        following = (residual * solved).sum(1, keepdim=True)
        direction = solved + torch.where(product > 0, following / product, 0.0) * direction
        product = following
    return torch.where(kept, current, 0.0)


def error_of(found: torch.Tensor, weight: torch.Tensor, gram: torch.Tensor) -> float:
    """The mean squared error of the outputs, summed over them."""
    return sum(float((((found[part] - weight[part]) @ gram) * (found[part] - weight[part])).sum()) for part in _row_parts(weight))


def _row_parts(matrix: torch.Tensor) -> list[slice]:
    """Slices of rows that are worked on together, so that what that takes does not grow with the matrix."""
    return [slice(start, start + _ROWS) for start in range(0, len(matrix), _ROWS)]


def _damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    matrix = gram.clone()
    mean = float(matrix.diagonal().mean())
    matrix.diagonal().add_(damping * mean if mean > 0 else 1.0)
    return matrix


def _inverse_factor(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of the damped matrix; with more damping where it is singular."""
    amount = max(damping, 1e-12)
    while amount < 1e6:
        lower, failed = torch.linalg.cholesky_ex(_damped(gram, amount))
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed):
                return upper
        amount *= 10
    raise PassError("the second moments of the inputs can't be factorised", fix="look for very large values in the calibration data")
