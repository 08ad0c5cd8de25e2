"""How floating-point operations are counted, in one place.

- A multiply-add is 2. A bias costs nothing: the sum of n products has n - 1 additions, the bias is the n-th.
- An elementwise op is 1 per element of the result, whatever the function and dtype: `exp` is 1, `gelu` is 1,
  and so is the addition of two integers.
- A reduction is 1 per element of the operand (`sum`, `amax`), more where the definition does more per
  element; a pool is 1 per element of each window.
- Moving, copying, converting, comparing for a sort order and drawing random numbers are 0.

Each op's own rule is the `flops` of its definition. `torch.utils.flop_counter` counts products of
matrices and convolutions alone; on those both agree.
"""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.types import TensorType
from graphopt.ops.registry import Call, FlopRule

__all__ = ["per_operand", "per_result", "zero"]


def zero(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """No arithmetic: the op moves or converts data."""
    return 0


def per_result(count: int) -> FlopRule:
    """`count` operations for each element of the first result."""
    return lambda call, results: count * results[0].elements


def per_operand(count: int) -> FlopRule:
    """`count` operations for each element of the first operand."""
    return lambda call, results: count * call.type(0).elements
