"""Matrix products."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Lowering

__all__ = ["LOWERINGS"]

LOWERINGS: dict[str, Lowering] = {
    "linear": lambda emit, site: emit.call("F.linear", site[0], site[1], site[2]),
    "matmul": lambda emit, site: emit.call("torch.matmul", site[0], site[1]),
    "einsum": lambda emit, site: emit.call("torch.einsum", site["equation"], *site.operands),
}
