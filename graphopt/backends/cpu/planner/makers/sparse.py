"""Sparse kernels for parameters that are annotated; the dense ones compete with them."""

from __future__ import annotations

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.sparse_candidates import sparse_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.graph import Value

WORTHWHILE = 0.3
"""Below this fraction of zeros no sparse kernel has ever paid."""
LIKELY = 0.6
"""From here on the sparse kernel is the best guess where nothing is measured."""


def sparse_kernels(
    builder: Builder, weight: Value, bias: str | None, x: Storage, y: Storage, conv: Convolution, frame: Frame, chain: Chain
) -> list[Kernel]:
    """Kernels that skip the zeros of an annotated weight; none where it is dense, or the graph has no numbers."""
    sparsity = weight.type.sparsity
    if sparsity is None or sparsity.ratio < WORTHWHILE:
        return []
    numbers = builder.numbers(weight.name)
    strides = frame.strides(x), frame.strides(y)
    if numbers is None or any(found is None or found.lane == 0 for found in strides):
        return []
    shaped = numbers.reshape(*numbers.shape[:2], *conv.kernel)
    return sparse_candidates(x, y, weight.name, bias, conv, frame, shaped, chain)[:4]


def with_dense(sparse: list[Kernel], dense: list[Kernel], weight: Value) -> list[Kernel]:
    """Both, the best guess first."""
    sparsity = weight.type.sparsity
    return [*sparse, *dense] if sparsity is not None and sparsity.ratio >= LIKELY else [*dense, *sparse]
