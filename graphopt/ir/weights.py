"""The numbers of a saved graph: one safetensors file, written tensor by tensor and read tensor by tensor.

    8 bytes   length of the header
    header    JSON: {"conv.weight": {"dtype": "F32", "shape": [4,3,3,3], "data_offsets": [0, 432]}, ...}
    data      the tensors one after another, little-endian, wider element types first so that each is aligned

The library that writes such files wants all tensors at once; here one at a time is in memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from graphopt.errors import ArtifactError
from graphopt.ir.artifact import strict_json
from graphopt.ir.data import Data
from graphopt.ir.graph import Graph, State, Value
from graphopt.ir.types import DType, TensorType

if TYPE_CHECKING:
    import torch

__all__ = ["FileData", "WeightsFile", "check_header", "states_by_key", "write_weights"]

_NAMES = {
    DType.f64: "F64",
    DType.f32: "F32",
    DType.f16: "F16",
    DType.bf16: "BF16",
    DType.f8e4m3: "F8_E4M3",
    DType.f8e5m2: "F8_E5M2",
    DType.i64: "I64",
    DType.i32: "I32",
    DType.i16: "I16",
    DType.i8: "I8",
    DType.u8: "U8",
    DType.u16: "U16",
    DType.u32: "U32",
    DType.u64: "U64",
    DType.boolean: "BOOL",
    DType.c64: "C64",
    DType.c128: "F64",  # safetensors has no complex128: pairs of float64, one axis more
}
_METADATA = "__metadata__"
_MOST_HEADER_BYTES = 100_000_000  # as in the safetensors library
_CHUNK = 1 << 24


def states_by_key(graph: Graph) -> dict[str, State]:
    """All states, those of regions among them, under their keys in the file.

    The key is the state's name. States of regions, and the few names that mean something else in the file, are
    called `region:N:NAME`, where N counts the graphs in the order of the text.
    """
    found: dict[str, State] = {}
    for number, current in enumerate(_graphs(graph)):
        for name, state in current.states.items():
            plain = number == 0 and not name.startswith((_METADATA, "region:"))
            found[name if plain else f"region:{number}:{name}"] = state
    return found


def _graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and its regions, in the order in which the text has them."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed([region for node in current.nodes for region in node.regions]))


def write_weights(states: Mapping[str, State], emit: Callable[[bytes | memoryview], object]) -> dict[Value, str]:
    """Write the numbers of states, given by key, with `emit`; returns the SHA-256 of each.

    Derived data is computed on the way. Peak memory is that of one tensor above what the states hold anyway.

    Raises:
        ArtifactError: a state has no numbers, a symbolic shape, or numbers of another type than it declares.
    """
    if sys.byteorder != "little":
        raise ArtifactError("weights can be written on little-endian machines only")
    ordered = sorted(states.items(), key=lambda item: -item[1].type.dtype.bytes)
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    offset = 0
    for key, state in ordered:
        if state.data is None:
            fix = "a graph that was parsed from text has no weights: write its text instead"
            raise ArtifactError(f"%{state.name} has no numbers", fix=fix)
        if not state.type.is_static:
            raise ArtifactError(f"%{state.name} has the type {state.type.text}, and a saved tensor needs a static shape")
        size = _byte_size(state.type)
        header[key] = {
            "dtype": _NAMES[state.type.dtype],
            "shape": _stored_shape(state.type),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    emit(len(text).to_bytes(8, "little"))
    emit(text)
    return {state.value: _write_tensor(state, state.data, emit) for _, state in ordered if state.data is not None}


def _write_tensor(state: State, data: Data, emit: Callable[[bytes | memoryview], object]) -> str:
    import torch

    tensor = data.tensor().detach()
    dtype = getattr(torch, state.type.dtype.torch_name)
    if tensor.dtype != dtype or tuple(tensor.shape) != state.type.static_shape:
        raise ArtifactError(f"%{state.name} is declared {state.type.text} and its numbers are {tensor.dtype} {list(tensor.shape)}")
    digest = hashlib.sha256()
    if tensor.numel():
        for piece in _pieces(tensor.resolve_conj().resolve_neg().cpu()):
            digest.update(piece)
            emit(piece)
    return digest.hexdigest()


def check_header(file: BinaryIO, size: int, states: Mapping[str, State]) -> None:
    """Check that a safetensors file of `size` bytes holds exactly the tensors of `states`, side by side, without gaps.

    Raises:
        ArtifactError: anything else.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
        raise _broken(f"a header of {length} bytes in a file of {size}")
    try:
        header = strict_json(file.read(length))
    except ValueError as error:
        raise _broken(f"the header is no proper JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken("the header is no JSON object")
    header.pop(_METADATA, None)
    if header.keys() != states.keys():
        extra = sorted(map(str, header.keys() - states.keys()))[:3]
        missing = sorted(states.keys() - header.keys())[:3]
        raise _broken(f"its tensors are not the states of the graph: missing {missing}, left over {extra}")
    spans = sorted(_check_entry(states[key], entry) for key, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise _broken(f"tensor '{name}' begins at byte {start}, the one before ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise _broken(f"the tensors take {end} bytes, the file has {size - 8 - length} for them")


def _check_entry(state: State, entry: object) -> tuple[int, int, str]:
    name = state.name
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"the entry of '{name}' needs dtype, shape and data_offsets, and nothing else")
    expected = {"dtype": _NAMES[state.type.dtype], "shape": _stored_shape(state.type)}
    shape = entry["shape"]
    if entry["dtype"] != expected["dtype"] or shape != expected["shape"] or any(type(axis) is not int for axis in shape):
        raise _broken(f"'{name}' is {str(entry['dtype'])[:20]} {str(shape)[:80]}, and the graph says {state.type.text}")
    match entry["data_offsets"]:
        case [int(start), int(stop)] if type(start) is int and type(stop) is int and 0 <= start <= stop:
            pass
        case offsets:
            raise _broken(f"'{name}' has the offsets {str(offsets)[:80]}, needs two integers in order")
    if stop - start != _byte_size(state.type):
        raise _broken(f"'{name}' has {stop - start} bytes, and {state.type.text} needs {_byte_size(state.type)}")
    return start, stop, name


class WeightsFile:
    """A safetensors file that was checked; opened when the first tensor is asked for, and mapped, not read."""

    __slots__ = ("_handle", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None

    def tensor(self, key: str) -> torch.Tensor:
        """One tensor, backed by the file.

        Raises:
            ArtifactError: the file went away or changed since the graph was loaded.
        """
        from safetensors import SafetensorError, safe_open

        try:
            if self._handle is None:
                self._handle = safe_open(str(self.path), framework="pt", device="cpu")
            return self._handle.get_tensor(key)
        except (OSError, SafetensorError) as error:
            what = f"the weights of a loaded graph can't be read any more: {error}"
            raise ArtifactError(what, where=str(self.path), fix="load it again") from error


class FileData:
    """Numbers in a file. They are read, and compared with their SHA-256, when first asked for."""

    __slots__ = ("_digest", "_file", "_key", "_tensor", "_type")

    def __init__(self, file: WeightsFile, key: str, type_: TensorType, digest: str) -> None:
        self._file = file
        self._key = key
        self._type = type_
        self._digest = digest
        self._tensor: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """The tensor in its declared dtype. It is a private mapping of the file; never write to it.

        Raises:
            ArtifactError: the file changed since the graph was loaded.
        """
        if self._tensor is None:
            self._tensor = self._read()
        return self._tensor

    def precise(self) -> torch.Tensor:
        """The tensor in float64 when it is floating point, else itself."""
        tensor = self.tensor()
        return tensor.double() if tensor.is_floating_point() else tensor

    def _read(self) -> torch.Tensor:
        import torch

        tensor = self._file.tensor(self._key)
        digest = hashlib.sha256()
        if tensor.numel():
            for piece in _pieces(tensor):
                digest.update(piece)
            if self._type.dtype is DType.boolean and int(tensor.view(torch.uint8).max()) > 1:
                raise ArtifactError(f"'{self._key}' holds a bool that is neither 0 nor 1", where=str(self._file.path))
        if digest.hexdigest() != self._digest:
            raise ArtifactError(
                f"'{self._key}' has the SHA-256 {digest.hexdigest()}, the graph says {self._digest}",
                where=str(self._file.path),
                fix="the file was changed or damaged: save again",
            )
        return torch.view_as_complex(tensor) if self._type.dtype is DType.c128 else tensor


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor with elements, in order; a contiguous one is not copied."""
    import torch

    plain: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    content = memoryview(plain)
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


def _stored_shape(type_: TensorType) -> list[int]:
    return [*type_.static_shape, 2] if type_.dtype is DType.c128 else list(type_.static_shape)


def _byte_size(type_: TensorType) -> int:
    size = type_.bytes
    assert isinstance(size, int), "a static type has a known size"
    return size


def _broken(what: str) -> ArtifactError:
    return ArtifactError(f"weights.safetensors: {what}")
