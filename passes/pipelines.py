"""Presets: pipelines that have a name. A plain tuple each, read from top to bottom, a reason per line.

A tuple inside a tuple is a group that runs again until nothing in it fires.

| preset | for |
|---|---|
| `lossless` | inference: everything that keeps the function, folding included |
| `lossless-training` | training on: the part of it that leaves parameters, batch norms and dropout as they are |
| `tidy` | after a pass of your own: dead code, repetition and shape bookkeeping, bit-identical |
"""

from __future__ import annotations

__all__ = ["LOSSLESS", "LOSSLESS_TRAINING", "TIDY"]

_SHAPES = (
    "merge-casts",  # first: a cast between two shape operations hides the pair
    "remove-noop-shapes",  # before merging, so that chains are as short as they can be
    "merge-slices",  # slices of slices, pieces of concats
    "merge-concats",  # what is taken apart and put together again
    "merge-permutes",  # permutes that move no data become reshapes here ...
    "merge-reshapes",  # ... and merge with their neighbours here
    "merge-pads",
)
"""Shape bookkeeping. Bit-identical."""

_SINK = (
    "sink-reshapes",  # bring reshapes together across elementwise nodes; the next round merges them
    "sink-permutes",
    "sink-expands",  # most readers broadcast anyway
)
"""The same across elementwise nodes. Vectorised functions may round differently in another layout."""

_ARITHMETIC = (
    "fold-constants",  # what does not depend on inputs or parameters becomes a number that later rules can read
    "fold-full-operands",  # tensors full of one number become literals
    "remove-neutral-arithmetic",  # x * 1, x - 0, ...
    "remove-double-inverses",
    "remove-repeated-idempotents",
    "remove-constant-selects",
    "merge-clamps",
    "merge-reductions",
    "remove-unit-pools",
)
"""Arithmetic that changes not one bit."""

TIDY = (
    "remove-dead-nodes",  # nothing below has to look at nodes that do not matter
    (*_SHAPES, *_ARITHMETIC, "merge-common-subexpressions"),  # each opens places for the others
    "merge-duplicate-constants",
    "remove-dead-nodes",
    "remove-dead-states",  # constants that were folded away
)

_RECOGNISE = (
    "fuse-normalizations",  # before anything merges the arithmetic that a norm is written out in
    "fuse-attention",
    "fuse-gelu",
    "fuse-activations",
)
"""Compositions become the op that they are; one kernel instead of many."""

_LESS_WORK = (
    "hoist-slices",  # cut before computing what is cut off
    "hoist-slices-above-projections",
    "hoist-max-pools",
    "hoist-average-pools",
    "merge-averages",
    "remove-idle-pool-borders",  # before unit pools: a window that shrinks to one element is one
    "remove-unit-average-pools",
    "remove-zero-additions",
    "remove-noop-resizes",
    "fold-pads",  # after the hoists, which may have put a pad beside its convolution
)
"""The same algebra with fewer operations."""

LOSSLESS_TRAINING = (
    "remove-dead-nodes",
    (*_SHAPES, *_SINK, *_ARITHMETIC, "merge-common-subexpressions"),  # a clean graph is what the patterns below are written for
    *_RECOGNISE,
    "split-attention-heads",
    _LESS_WORK,
    *TIDY,  # what the rewrites above have left behind
)

LOSSLESS = (
    "remove-dropout",  # first: it stands between layers that fold into each other
    "remove-dead-nodes",
    (*_SHAPES, *_SINK, *_ARITHMETIC, "merge-common-subexpressions"),
    *_RECOGNISE,
    "fold-parameters",  # a weight that is computed from parameters becomes one, which the folds below can change
    "form-linear",  # matrix products with a weight become layers, which the folds below know
    (
        "fold-batch-norm",  # into the layer before or behind it
        "merge-affine",  # scales and shifts that are left, into weights
        "merge-parallel-layers",  # branches of one input that are added
        "merge-linear-layers",  # two layers with nothing between them, where one is less work
    ),
    "remove-zero-channels",  # after the folds: a batch norm with zero scale has made its zeros visible in the weights
    "remove-idle-kernel-borders",
    _LESS_WORK,
    "fold-parameters",  # after the folds: what still depends on parameters alone is computed once
    "merge-duplicate-parameters",
    "split-attention-heads",  # after the folds, which take away scales that stand between
    *TIDY,
)
