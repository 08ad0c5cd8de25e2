"""Finding the frame in which a kernel can iterate over several storages at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernels.chain_code import chain_fits
from graphopt.backends.cpu.storage import Storage

__all__ = ["find_frame", "frames_of"]


def frames_of(rank: int, channel: int, order: Sequence[int]) -> Iterator[Frame]:
    """Frames with lanes along axis `channel`, the other axes in `order` from outermost; flattest first."""
    outer = [axis for axis in order if axis != channel]
    if rank in (3, 4) and channel == 1 and outer == sorted(outer):
        yield image_frame(rank)
        return
    count = len(outer)
    for first in range(count + 1):
        for second in range(first, count + 1):
            yield Frame(tuple(outer[:first]), channel, tuple(outer[first:second]), tuple(outer[second:]))


def find_frame(storages: Sequence[Storage], channel: int, chain: Chain | None = None) -> Frame | None:
    """The flattest frame that tells all storages (all of one rank) and the chain's operands.

    Rows may be visited in any order, so axes are sorted by the stride of the first storage.
    """
    first = storages[0]
    order = sorted(range(first.rank), key=lambda axis: (-first.strides[axis], axis))
    natural = list(range(first.rank))
    for axes in (order, natural):
        for frame in frames_of(first.rank, channel, axes):
            if all(frame.strides(storage) is not None for storage in storages) and (chain is None or chain_fits(chain, frame)):
                return frame
    return None
