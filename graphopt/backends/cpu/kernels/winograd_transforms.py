"""Winograd's minimal filtering: its matrices, transformed weights, and the error to expect.

    y = A^T [ (G w G^T) * (B^T d B) ] A          d: an (m + 2) x (m + 2) tile, w: 3 x 3, y: m x m, * elementwise

F(m x m, 3 x 3) evaluates at 0, infinity and m / 2 pairs of points +-p (A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks", 2015). `winograd_transforms.hpp` has the same points in the same order.

| m | products per output and channel | error, max / max |
|---|---|---|
| 2 | 4 (instead of 9) | 3e-7 |
| 4 | 2.25 | 3e-6 |
| 6 | 1.78 | 6e-6 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["ORDERS", "RUN", "Matrices", "matrices", "transform_weight", "winograd_error"]

ORDERS = (2, 4, 6)
"""Outputs of a tile along one axis, m."""

POINTS = {2: (1.0,), 4: (1.0, 1.5), 6: (1.0, 0.5, 2.0)}
"""The pairs +-p, as in `WinogradPoints`."""

RUN = 64
"""Input channels that are summed before they are added to the sums so far: WINOGRAD_RUN."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """B^T [n, n], G [n, 3] and A^T [m, n] in float64, n = m + 2. All entries but those of G are exact in f32."""

    inputs: NDArray[numpy.float64]
    weights: NDArray[numpy.float64]
    outputs: NDArray[numpy.float64]


def matrices(order: int) -> Matrices:
    """Of F(order, 3). Rows of B^T are the polynomials that vanish at all other points, leading coefficient 1."""
    import numpy

    points = numpy.array([0.0, *(sign * point for point in POINTS[order] for sign in (1.0, -1.0))])
    size = order + 2
    inputs = numpy.zeros((size, size))
    weights = numpy.zeros((size, 3))
    outputs = numpy.zeros((order, size))
    for row, point in enumerate(points):
        others = numpy.delete(points, row)
        inputs[row, : size - 1] = numpy.poly(others)[::-1]
        weights[row] = point ** numpy.arange(3) / numpy.prod(point - others)
        outputs[:, row] = point ** numpy.arange(order)
    inputs[-1] = numpy.poly(points)[::-1]
    weights[-1, -1] = 1.0
    outputs[-1, -1] = 1.0
    return Matrices(inputs, weights, outputs)


def transform_weight(weight: numpy.ndarray, order: int) -> NDArray[numpy.float32]:
    """G w G^T of [K, C, 3, 3] as [frequency, K, C], computed in float64 and rounded once."""
    import numpy

    matrix = matrices(order).weights
    both = numpy.kron(matrix, matrix)
    taps = numpy.asarray(weight, dtype=numpy.float64).reshape(-1, 9)
    return (both @ taps.T).astype(numpy.float32).reshape(len(both), *weight.shape[:2])


def _along(matrix: numpy.ndarray, tiles: numpy.ndarray) -> NDArray[numpy.float32]:
    """matrix @ tile @ matrix^T over the first two axes, in f32."""
    import numpy

    exact = matrix.astype(numpy.float32)
    return numpy.einsum("jb,ib...->ij...", exact, numpy.einsum("ia,ab...->ib...", exact, tiles))


def winograd_error(weight: numpy.ndarray, order: int, *, tiles: int = 16, outputs: int = 32, seed: int = 0) -> float:
    """Largest error / largest output of a convolution by F(order x order, 3 x 3), on `tiles` tiles of unit-variance noise.

    The sums are rounded as the kernel does it, against a direct convolution in float64. At most `outputs` output
    channels are tried, those with the largest weights: they make both the largest outputs and the largest errors.
    Infinite where a weight is not finite.
    """
    import numpy

    weight = numpy.asarray(weight, dtype=numpy.float32)
    if not numpy.isfinite(weight).all():
        return float("inf")
    largest = numpy.argsort(-numpy.square(weight, dtype=numpy.float64).sum(axis=(1, 2, 3)), kind="stable")[:outputs]
    weight = weight[largest]
    channels, size = weight.shape[1], order + 2
    found = matrices(order)
    data = numpy.random.default_rng(seed).standard_normal((size, size, channels, tiles)).astype(numpy.float32)
    v = _along(found.inputs, data).reshape(size * size, channels, tiles, 1).astype(numpy.float64)
    u = transform_weight(weight, order).transpose(0, 2, 1)[:, :, None, :].astype(numpy.float64)
    m = numpy.zeros((size * size, tiles, len(weight)), dtype=numpy.float32)
    for first in range(0, channels, RUN):
        run = numpy.zeros_like(m)
        for channel in range(first, min(first + RUN, channels)):
            run = (run + v[:, channel] * u[:, channel]).astype(numpy.float32)  # a product of two floats is exact in float64
        m += run
    y = _along(found.outputs, m.reshape(size, size, tiles, -1))
    windows = numpy.lib.stride_tricks.sliding_window_view(data.astype(numpy.float64), (3, 3), axis=(0, 1))  # pyright: ignore[reportArgumentType]
    want = numpy.einsum("hwctab,kcab->hwtk", windows, weight.astype(numpy.float64), optimize=True)
    scale = float(numpy.abs(want).max())
    return float(numpy.abs(y - want).max()) / scale if scale else 0.0
