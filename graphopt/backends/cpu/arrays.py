"""The states of a loaded executable: numpy views of its weights file, which need no torch.

The file is mapped. What a state holds is compared with its SHA-256 when it is first read, so that a file that
changes after it was checked is noticed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from graphopt.errors import ArtifactError
from graphopt.ir.artifact import ArtifactReader
from graphopt.ir.types import DType, TensorType

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayData", "map_states"]

_ODD = {DType.bf16: "uint16", DType.f8e4m3: "uint8", DType.f8e5m2: "uint8", DType.c64: "complex64", DType.c128: "complex128"}
"""Types whose numpy name is another; those that numpy lacks are seen as integers of their size."""


def _numpy_type(dtype: DType) -> numpy.dtype[Any]:
    return numpy.dtype(_ODD.get(dtype, dtype.torch_name))


class ArrayData:
    """Numbers of a state, in a mapped file. The array is read-only; bf16 is seen as uint16."""

    __slots__ = ("_array", "_checked", "_digest", "_name", "_path", "_type")

    def __init__(self, array: numpy.ndarray[Any, Any], type_: TensorType, digest: str, name: str, path: Path) -> None:
        self._array = array
        self._type = type_
        self._digest = digest
        self._name = name
        self._path = path
        self._checked = False

    def array(self) -> numpy.ndarray[Any, Any]:
        """The numbers.

        Raises:
            ArtifactError: the file changed since the executable was loaded.
        """
        if not self._checked:
            digest = hashlib.sha256(self._array.reshape(-1).view(numpy.uint8).data if self._array.size else b"").hexdigest()
            if digest != self._digest:
                what = f"'{self._name}' has the SHA-256 {digest}, the graph says {self._digest}"
                raise ArtifactError(what, where=str(self._path), fix="the file was changed or damaged: save again")
            if self._type.dtype is DType.boolean and self._array.size and int(self._array.view(numpy.uint8).max()) > 1:
                raise ArtifactError(f"'{self._name}' holds a bool that is neither 0 nor 1", where=str(self._path))
            self._checked = True
        return self._array

    def tensor(self) -> torch.Tensor:
        """The tensor in its declared dtype, a copy."""
        import torch

        array = self.array()
        tensor = torch.from_numpy(array.copy())
        return tensor.view(getattr(torch, self._type.dtype.torch_name)) if self._type.dtype in _ODD else tensor

    def precise(self) -> torch.Tensor:
        """The tensor in float64 when it is floating point, else itself."""
        tensor = self.tensor()
        return tensor.double() if tensor.is_floating_point() else tensor


def map_states(reader: ArtifactReader, name: str, types: dict[str, tuple[TensorType, str]]) -> dict[str, ArrayData]:
    """Views of the tensors of a safetensors file whose header was checked (`graphopt.ir.weights.check_header`); `types` has
    type and SHA-256 by key."""
    with reader.open(name) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        size = os.fstat(file.fileno()).st_size
        mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    content = numpy.frombuffer(mapping, dtype=numpy.uint8)
    found: dict[str, ArrayData] = {}
    for key, (type_, digest) in types.items():
        start, stop = (8 + length + int(offset) for offset in header[key]["data_offsets"])
        dtype = _numpy_type(type_.dtype)
        if stop > size or stop - start != dtype.itemsize * numpy.prod(type_.static_shape, dtype=object):
            raise reader.error(name, "changed while it was read")
        array = content[start:stop].view(dtype).reshape(type_.static_shape)
        found[key] = ArrayData(array, type_, digest, key, reader.path(name))
    return found
