"""Running kernels on numpy arrays through the real path: plan, emit, compile, ctypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
from numpy.typing import NDArray

from graphopt.backends.cpu.emit import emit, weight_chunks
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.library import Library
from graphopt.backends.cpu.plan import Buffer, Step, finish
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.backends.cpu.toolchain import build

__all__ = ["Built", "build_kernels", "memory_of", "run_kernels", "value_of"]

Array = NDArray[numpy.generic]


def _places(storage: Storage) -> NDArray[numpy.int64]:
    """Index in the buffer of every element of a storage."""
    place = numpy.full(storage.shape, storage.offset, dtype=numpy.int64)
    for axis, (size, stride) in enumerate(zip(storage.shape, storage.strides, strict=True)):
        along = numpy.arange(size, dtype=numpy.int64)
        steps = along // LANES * storage.block_stride + along % LANES if axis == storage.blocked_axis else along * stride
        place = place + steps.reshape([-1 if other == axis else 1 for other in range(storage.rank)])
    return place


def memory_of(array: Array, storage: Storage, fill: float = 0.0, elements: int | None = None) -> Array:
    """A buffer that holds `array` as `storage` says; everything else (halo, padding lanes) is `fill`."""
    memory = numpy.full(max(elements or 0, storage.extent), fill, dtype=array.dtype)
    memory[_places(storage)] = array
    return memory


def value_of(memory: Array, storage: Storage) -> Array:
    """The value that a storage shows of a buffer."""
    return memory[_places(storage)]


class Built:
    """Kernels compiled together, as steps of one network whose buffers are all inputs and outputs."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        inputs: Sequence[Storage],
        outputs: Sequence[Storage],
        states: Mapping[str, Array] | None = None,
        isa: str = "avx512",
        arena: Sequence[Storage] = (),
        sanitize: str = "",
    ) -> None:
        """`inputs` and `outputs` cover whole buffers; `arena` are buffers between kernels (their halo is zeroed).

        A buffer called `state:NAME` is state NAME as it is and needs no mention.
        """
        states = dict(states or {})
        buffers = {storage.buffer: Buffer(storage.buffer, "input", storage, index) for index, storage in enumerate(inputs)}
        buffers |= {storage.buffer: Buffer(storage.buffer, "output", storage, index) for index, storage in enumerate(outputs)}
        buffers |= {storage.buffer: Buffer(storage.buffer, "arena", storage) for storage in arena}
        for kernel in kernels:
            for storage in kernel.reads:
                if storage.buffer.startswith("state:") and storage.buffer not in buffers:
                    whole = replace(storage, shape=states[storage.buffer[6:]].shape, strides=_strides(states[storage.buffer[6:]]), offset=0)
                    buffers[storage.buffer] = Buffer(storage.buffer, "state", whole, state=storage.buffer[6:])
        self.plan = finish("kernels", inputs, outputs, buffers, [Step(kernel) for kernel in kernels])
        self.sources = emit(self.plan)
        blob = numpy.zeros(self.plan.weights_bytes + 64, dtype=numpy.uint8)
        start = -blob.ctypes.data % 64
        self._blob = blob[start:]
        for offset, array in weight_chunks(self.plan, lambda name: states[name]):
            self._blob[offset : offset + array.nbytes] = array.reshape(-1).view(numpy.uint8)
        self.path = build(self.sources, isa, sanitize)
        self._libraries: dict[int, Library] = {}

    def run(self, memories: Mapping[str, Array], threads: int = 1, fill: float = 0.0) -> dict[str, Array]:
        """Output buffers by name for input buffers by name; output memory starts as `fill`."""
        library = self._libraries.setdefault(threads, Library(self.path, self._blob.ctypes.data, threads))
        inputs = [numpy.ascontiguousarray(memories[storage.buffer]) for storage in self.plan.inputs]
        outputs = {
            storage.buffer: numpy.full(max(1, storage.extent), fill).astype(numpy.dtype(storage.dtype.torch_name))
            for storage in self.plan.outputs
        }
        library.run([array.ctypes.data for array in inputs], [array.ctypes.data for array in outputs.values()])
        return outputs


def _strides(array: Array) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in numpy.ascontiguousarray(array).strides)


def build_kernels(kernels: Sequence[Kernel], inputs: Sequence[Storage], outputs: Sequence[Storage], **options: object) -> Built:
    """`Built`, by another name for tests that run it more than once."""
    return Built(kernels, inputs, outputs, **options)  # pyright: ignore[reportArgumentType]


def run_kernels(
    kernels: Sequence[Kernel],
    inputs: Mapping[Storage, Array],
    outputs: Sequence[Storage],
    states: Mapping[str, Array] | None = None,
    threads: int = 1,
    isa: str = "avx512",
) -> list[Array]:
    """Values of the output storages for values of the input storages."""
    built = Built(kernels, list(inputs), outputs, states, isa)
    memories = {storage.buffer: memory_of(array, storage) for storage, array in inputs.items()}
    found = built.run(memories, threads)
    return [value_of(found[storage.buffer], storage) for storage in outputs]
