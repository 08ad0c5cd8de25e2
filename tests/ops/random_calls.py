"""Random calls of each canonical op: most of them right, some wrong on purpose.

`draw(op, seed)` gives operands (types or numbers) and attributes. Sizes are small, 0 and 1 among them.
"""

from __future__ import annotations

import random

from graphopt import ops
from graphopt.ops import ELEMENTWISE, UNARY
from tests.ops import random_data, random_layers
from tests.ops.drawing import Draw, Drawn


def _table() -> dict[str, Draw]:
    special: dict[str, Draw] = {
        name.removeprefix("draw_"): found
        for module in (random_data, random_layers)
        for name, found in vars(module).items()
        if name.startswith("draw_") and ops.is_canonical(name.removeprefix("draw_"))
    }
    families: dict[str, Draw] = {
        "binary": random_data.draw_binary,
        "conv": random_layers.draw_conv,
        "dropout": random_layers.draw_dropout,
        "recurrent": random_layers.draw_recurrent,
    }
    table = {found.name: families[found.family] for found in ops.definitions() if found.family in families}
    table |= dict.fromkeys(UNARY, random_data.draw_unary) | dict.fromkeys(ops.REDUCTIONS, random_data.draw_reduce)
    table |= dict.fromkeys(ops.MAX_POOLS | ops.AVERAGE_POOLS, random_layers.draw_pool) | dict.fromkeys(
        ops.ADAPTIVE_POOLS, random_layers.draw_adaptive
    )
    table |= dict.fromkeys(("argmax", "argmin"), random_data.draw_argument) | dict.fromkeys(("cumsum", "cumprod"), random_data.draw_scan)
    table |= dict.fromkeys(("tril", "triu"), random_data.draw_triangle) | dict.fromkeys(
        ("softmax", "log_softmax"), random_layers.draw_softmax
    )
    table |= dict.fromkeys(("batch_norm", "instance_norm"), random_layers.draw_batch_norm) | dict.fromkeys(
        ("layer_norm", "rms_norm"), random_layers.draw_layer_norm
    )
    table["scaled_dot_product_attention"] = random_layers.draw_attention
    return table | special


DRAW = _table()


def draw(op: str, seed: int) -> Drawn:
    """A random call; the same for the same seed."""
    return DRAW[op](op, random.Random(f"{op} {seed}"))


assert DRAW.keys() >= ELEMENTWISE, "every elementwise op needs random calls"
