"""Finding a frame in which all storages of a kernel have strides: any rank in places n, h and w.

[N, H, W, C] seen of a blocked image, channels last    n=(0,), h=(1,), w=(2,), c=3, or w=(0, 1, 2) where it collapses
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, Strides
from graphopt.backends.cpu.kernels.chain_code import chain_fits
from graphopt.backends.cpu.storage import Storage

__all__ = ["NO_CHAIN", "find_frame", "frames_along", "strides_in"]

NO_CHAIN = Chain()


def frames_along(rank: int, c: int) -> Iterator[Frame]:
    """Frames with vectors along axis c: all other axes in w, then in h and w, then in n, h and w."""
    others = [axis for axis in range(rank) if axis != c]
    count = len(others)
    for first in range(count):
        for second in range(first, count):
            n, h, w = others[:first], others[first:second], others[second:]
            if first and not h:
                continue  # n is used only when h is
            yield Frame(tuple(n), c, tuple(h), tuple(w))
    if not others:
        yield Frame((), c, (), ())


def find_frame(frames: Iterator[Frame], storages: Sequence[Storage], chains: Sequence[Chain] = ()) -> Frame | None:
    """The first frame that tells the strides of all storages, each with 16 channels side by side, and fits the chains."""
    for frame in frames:
        strides = [frame.strides(storage) for storage in storages]
        if all(found is not None and found.lane == 1 for found in strides) and all(chain_fits(chain, frame) for chain in chains):
            return frame
    return None


def strides_in(frame: Frame, storage: Storage) -> Strides:
    """Strides of a storage that `find_frame` found to fit."""
    found = frame.strides(storage)
    assert found is not None, f"the frame can't tell {storage.text}"
    return found
