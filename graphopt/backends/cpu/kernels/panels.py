"""Weights as dense kernels read them: vectors of 16 output channels, the vectors of a set side by side.

    [O, ..., K] -> set 0 [K][VECTORS][16], set 1, ..., the last set [K][rest][16]

Output channels are padded to whole vectors with zeros. The order does not depend on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.backends.cpu.storage import LANES

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

__all__ = ["pack_bias", "pack_panels", "vectors_of"]


def vectors_of(channels: int) -> int:
    """Vectors of 16 that hold so many channels."""
    return -(-channels // LANES)


def pack_panels(weight: Floats, vectors: int) -> Floats:
    """[outputs, depth], depth in the order of the sum, as sets of `vectors` output vectors, flat."""
    import numpy

    outputs, depth = weight.shape
    padded = numpy.zeros((vectors_of(outputs) * LANES, depth), dtype=numpy.float32)
    padded[:outputs] = weight
    lanes = padded.reshape(vectors_of(outputs), LANES, depth)
    sets = [lanes[first : first + vectors].transpose(2, 0, 1).reshape(-1) for first in range(0, len(lanes), vectors)]
    return numpy.concatenate(sets) if sets else padded.reshape(-1)


def pack_bias(bias: Floats | None, channels: int) -> Floats:
    """Whole vectors, zeros where there is no bias."""
    import numpy

    padded = numpy.zeros(vectors_of(channels) * LANES, dtype=numpy.float32)
    if bias is not None:
        padded[:channels] = bias
    return padded
