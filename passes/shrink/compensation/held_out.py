"""Which calibration data weights are fitted to, and which they are chosen by.

Every fourth batch is held out; of fewer than four batches the last quarter of each, in the order of axis 0 and then of
positions. So there is something of both kinds whether the batches are many and of one sample or one and large.
"""

from __future__ import annotations

__all__ = ["first_held", "holds_batches"]

_EVERY = 4


def holds_batches(batches: int) -> bool:
    """True where there are enough batches to hold out whole ones."""
    return batches >= _EVERY


def first_held(rows: int, batch: int, batches: int) -> int:
    """The first of the rows of a batch that is held out: 0 where all are, `rows` where none is."""
    if holds_batches(batches):
        return 0 if batch % _EVERY == _EVERY - 1 else rows
    return rows - max(rows // _EVERY, 1 if rows > 1 else 0)
