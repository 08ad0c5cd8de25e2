"""A layer of a fused block: its states, and how they are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.kernel import Packed, ReadState
from graphopt.backends.cpu.kernels.panels import pack_bias, pack_panels, vectors_of
from graphopt.backends.cpu.storage import LANES

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

__all__ = ["NO_CHAIN", "Layer", "numbers", "pack_layer", "packed_layer"]


NO_CHAIN = Chain()
"""Nothing rides on a result."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer by the names of its states, how many channels it makes, and the chain on them."""

    weight: str
    bias: str | None
    channels: int
    chain: Chain = NO_CHAIN


def numbers(read: ReadState, name: str) -> Floats:
    """A state as f32."""
    import numpy

    return numpy.asarray(read(name), dtype=numpy.float32)


def pack_layer(read: ReadState, layer: Layer, vectors: int) -> tuple[Floats, Floats]:
    """Weights [outputs, inputs] in sets of output vectors, and the bias in whole vectors."""
    bias = None if layer.bias is None else numbers(read, layer.bias)
    return pack_panels(numbers(read, layer.weight).reshape(layer.channels, -1), vectors), pack_bias(bias, layer.channels)


def packed_layer(name: str, layer: Layer, depth: int) -> tuple[Packed, Packed]:
    """What `pack_layer` makes of a layer with so many inputs."""
    groups = vectors_of(layer.channels)
    return Packed(name, "f32", (groups * depth * LANES,)), Packed(f"{name} bias", "f32", (groups * LANES,))
