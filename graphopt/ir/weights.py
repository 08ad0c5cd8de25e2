"""The numbers of a saved graph: one safetensors file, written tensor by tensor and read tensor by tensor.

    8 bytes   length of the header
    header    JSON: {"conv.weight": {"dtype": "F32", "shape": [4,3,3,3], "data_offsets": [0, 432]}, ...}
    data      the tensors one after another, little-endian, wider element types first so that each is aligned

A state that is annotated as sparse may be several tensors, see `graphopt.ir.sparse_storage`.

The library that writes such files wants all tensors at once; here one at a time is in memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from graphopt.errors import ArtifactError
from graphopt.ir.artifact import strict_json
from graphopt.ir.data import Data
from graphopt.ir.graph import Graph, State, Value
from graphopt.ir.sparse_storage import PREFIX, Encoding, Part, choose_encoding, decode, encode, encoding_of_parts
from graphopt.ir.types import DType, TensorType

if TYPE_CHECKING:
    import torch

__all__ = ["FileData", "WeightsFile", "check_header", "choose_encodings", "states_by_key", "write_weights"]

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


def states_by_key(graph: Graph, *, sparse: bool = False) -> dict[str, State]:
    """All states, those of regions among them, under their keys in the file.

    The key is the state's name. States of regions, and the few names that mean something else in the file, are
    called `region:N:NAME`, where N counts the graphs in the order of the text. `sparse` is for files in which names may
    mean parts of sparse tensors.
    """
    special = (_METADATA, "region:", PREFIX) if sparse else (_METADATA, "region:")
    found: dict[str, State] = {}
    for number, current in enumerate(_graphs(graph)):
        for name, state in current.states.items():
            plain = number == 0 and not name.startswith(special)
            found[name if plain else f"region:{number}:{name}"] = state
    return found


def _graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and its regions, in the order in which the text has them."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed([region for node in current.nodes for region in node.regions]))


def choose_encodings(states: Mapping[str, State]) -> dict[str, Encoding]:
    """For states, given by key, that are smaller when they are kept sparse: how. Only annotated ones are looked at."""
    found: dict[str, Encoding] = {}
    for key, state in states.items():
        if state.type.sparsity is not None and state.data is not None and state.type.is_static:
            encoding = choose_encoding(state.type, _declared(state, state.data))
            if encoding is not None:
                found[key] = encoding
    return found


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of the file: all of a state, or a part of a sparse one."""

    key: str
    state: State
    dtype: DType
    shape: list[int]
    bytes: int
    encoding: Encoding | None = None

    @property
    def word(self) -> str:
        """`values`, `mask`, `rows` or `columns` of a part."""
        return self.key.split(":", 2)[1]


def _laid_out(states: Mapping[str, State], encodings: Mapping[str, Encoding]) -> list[_Piece]:
    """All tensors of the file in order, wider element types first."""
    pieces: list[_Piece] = []
    for key, state in states.items():
        encoding = encodings.get(key)
        if encoding is None:
            pieces.append(_Piece(key, state, state.type.dtype, _stored_shape(state.type), _byte_size(state.type)))
        else:
            pieces += [_Piece(p.key, state, p.dtype, list(p.shape), p.bytes, encoding) for p in encoding.parts(key)]
    return sorted(pieces, key=lambda piece: -piece.dtype.bytes)


def write_weights(
    states: Mapping[str, State], emit: Callable[[bytes | memoryview], object], encodings: Mapping[str, Encoding] | None = None
) -> dict[Value, str]:
    """Write the numbers of states, given by key, with `emit`; returns the SHA-256 of each, that of its dense bytes.

    `encodings` are those of `choose_encodings`; without any, all are written dense. Derived data is computed on the way.
    Peak memory is that of one tensor above what the states hold anyway.

    Raises:
        ArtifactError: a state has no numbers, a symbolic shape, or numbers of another type than it declares.
    """
    if sys.byteorder != "little":
        raise ArtifactError("weights can be written on little-endian machines only")
    for state in states.values():
        if state.data is None:
            fix = "a graph that was parsed from text has no weights: write its text instead"
            raise ArtifactError(f"%{state.name} has no numbers", fix=fix)
        if not state.type.is_static:
            raise ArtifactError(f"%{state.name} has the type {state.type.text}, and a saved tensor needs a static shape")
    pieces = _laid_out(states, encodings or {})
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    offset = 0
    for piece in pieces:
        header[piece.key] = {
            "dtype": _NAMES[piece.dtype],
            "shape": piece.shape,
            "data_offsets": [offset, offset + piece.bytes],
        }
        offset += piece.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    emit(len(text).to_bytes(8, "little"))
    emit(text)
    digests: dict[Value, str] = {}
    for piece in pieces:
        assert piece.state.data is not None, "checked above"
        if piece.encoding is None:
            digests[piece.state.value] = _write_tensor(piece.state, piece.state.data, emit)
            continue
        tensor = _declared(piece.state, piece.state.data)
        emit(encode(piece.encoding, tensor)[piece.word])
        if piece.word == "values":
            digests[piece.state.value] = _digest(tensor)
    return digests


def _write_tensor(state: State, data: Data, emit: Callable[[bytes | memoryview], object]) -> str:
    return _digest(_declared(state, data), emit)


def _declared(state: State, data: Data) -> torch.Tensor:
    """The numbers on the CPU, of the type that the state declares."""
    import torch

    tensor = data.tensor().detach()
    dtype = getattr(torch, state.type.dtype.torch_name)
    if tensor.dtype != dtype or tuple(tensor.shape) != state.type.static_shape:
        raise ArtifactError(f"%{state.name} is declared {state.type.text} and its numbers are {tensor.dtype} {list(tensor.shape)}")
    return tensor.resolve_conj().resolve_neg().cpu() if tensor.numel() else tensor


def _digest(tensor: torch.Tensor, emit: Callable[[bytes | memoryview], object] = len) -> str:
    """The SHA-256 of a tensor's bytes; each piece goes to `emit` too."""
    digest = hashlib.sha256()
    if tensor.numel():
        for piece in _pieces(tensor):
            digest.update(piece)
            emit(piece)
    return digest.hexdigest()


def check_header(file: BinaryIO, size: int, states: Mapping[str, State], *, sparse: bool = False) -> dict[str, Encoding]:
    """Check that a safetensors file of `size` bytes holds exactly the tensors of `states`, side by side, without gaps.

    With `sparse`, annotated states may be kept as parts; returns how, by key.

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
    encodings = _encodings_in(header, states) if sparse else {}
    pieces = {piece.key: piece for piece in _laid_out(states, encodings)}
    if header.keys() != pieces.keys():
        extra = sorted(map(str, header.keys() - pieces.keys()))[:3]
        missing = sorted(pieces.keys() - header.keys())[:3]
        raise _broken(f"its tensors are not the states of the graph: missing {missing}, left over {extra}")
    spans = sorted(_check_entry(pieces[key], entry) for key, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise _broken(f"tensor '{name}' begins at byte {start}, the one before ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise _broken(f"the tensors take {end} bytes, the file has {size - 8 - length} for them")
    return encodings


def _encodings_in(header: Mapping[str, object], states: Mapping[str, State]) -> dict[str, Encoding]:
    """How the states are kept that are not there under their own key."""
    shapes = {key: entry.get("shape") for key, entry in header.items() if key.startswith(PREFIX) and isinstance(entry, dict)}
    return {
        key: encoding_of_parts(key, state.type, shapes)
        for key, state in states.items()
        if key not in header and f"{PREFIX}values:{key}" in shapes
    }


def _check_entry(piece: _Piece, entry: object) -> tuple[int, int, str]:
    name = piece.state.name if piece.encoding is None else piece.key
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"the entry of '{name}' needs dtype, shape and data_offsets, and nothing else")
    expected = {"dtype": _NAMES[piece.dtype], "shape": piece.shape}
    wanted = piece.state.type.text if piece.encoding is None else f"{piece.dtype.text}{piece.shape}"
    shape = entry["shape"]
    if entry["dtype"] != expected["dtype"] or shape != expected["shape"] or any(type(axis) is not int for axis in shape):
        raise _broken(f"'{name}' is {str(entry['dtype'])[:20]} {str(shape)[:80]}, and the graph says {wanted}")
    match entry["data_offsets"]:
        case [int(start), int(stop)] if type(start) is int and type(stop) is int and 0 <= start <= stop:
            pass
        case offsets:
            raise _broken(f"'{name}' has the offsets {str(offsets)[:80]}, needs two integers in order")
    if stop - start != piece.bytes:
        raise _broken(f"'{name}' has {stop - start} bytes, and {wanted} needs {piece.bytes}")
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

    __slots__ = ("_digest", "_encoding", "_file", "_key", "_tensor", "_type")

    def __init__(self, file: WeightsFile, key: str, type_: TensorType, digest: str, encoding: Encoding | None = None) -> None:
        self._file = file
        self._key = key
        self._type = type_
        self._digest = digest
        self._encoding = encoding
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

        tensor = self._stored()
        if self._type.dtype is DType.boolean and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise ArtifactError(f"'{self._key}' holds a bool that is neither 0 nor 1", where=str(self._file.path))
        digest = _digest(tensor)
        if digest != self._digest:
            raise ArtifactError(
                f"'{self._key}' has the SHA-256 {digest}, the graph says {self._digest}",
                where=str(self._file.path),
                fix="the file was changed or damaged: save again",
            )
        return torch.view_as_complex(tensor) if self._type.dtype is DType.c128 else tensor

    def _stored(self) -> torch.Tensor:
        encoding = self._encoding
        if encoding is None:
            return self._file.tensor(self._key)
        parts: tuple[Part, ...] = encoding.parts(self._key)
        return decode(self._key, encoding, {part.key.split(":", 2)[1]: self._file.tensor(part.key) for part in parts})


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
