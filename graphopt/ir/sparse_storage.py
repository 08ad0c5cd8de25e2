"""How an annotated sparse tensor is kept in a file: only what is not zero, and where that is.

    both      sparse:values:NAME     [stored], in the tensor's own dtype, in the order of the elements
    bitmask   sparse:mask:NAME       u8 [ceil(elements / 8)]: bit i % 8 of byte i // 8 (from the lowest) is set where element i is stored
    csr       sparse:rows:NAME       i32 [rows + 1]: where each row begins among the values; a row is one position of axis 0
              sparse:columns:NAME    u16 or, over 65536 columns, i32 [stored]: places in the row, the rest of the axes flattened

"Zero" means that all bits are zero: -0.0 is stored, so every tensor comes back bit for bit. The smaller of the two is
taken, and neither where the dense tensor is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from graphopt.errors import ArtifactError
from graphopt.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray

__all__ = ["PREFIX", "Encoding", "Part", "choose_encoding", "decode", "encode", "encoding_of_parts", "stored_bytes"]

PREFIX = "sparse:"
"""What the keys of parts begin with."""

MOST_GAIN = 1024
"""A tensor may not stand for more than so many times its bytes, so that a small file can't fill the memory."""

_WIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor in the file: `key` begins with `PREFIX`."""

    key: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.bytes


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a tensor of this type with `count` stored elements is kept as."""

    kind: Literal["bitmask", "csr"]
    type: TensorType
    count: int

    def parts(self, key: str) -> tuple[Part, ...]:
        """The tensors in the file of the state with this key."""
        values = Part(f"{PREFIX}values:{key}", self.type.dtype, (self.count,))
        elements = prod(self.type.static_shape)
        if self.kind == "bitmask":
            return values, Part(f"{PREFIX}mask:{key}", DType.u8, (-(-elements // 8),))
        rows, columns = _matrix(self.type)
        wide = DType.i32 if columns > _WIDE else DType.u16
        return values, Part(f"{PREFIX}rows:{key}", DType.i32, (rows + 1,)), Part(f"{PREFIX}columns:{key}", wide, (self.count,))

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part.bytes for part in self.parts(""))


def choose_encoding(type_: TensorType, tensor: torch.Tensor) -> Encoding | None:
    """The smallest encoding of a tensor; None where it is kept dense: not annotated, or no smaller."""
    if type_.sparsity is None or not type_.is_static or type_.dtype is DType.c128:
        return None
    dense = prod(type_.static_shape) * type_.dtype.bytes
    if not dense:
        return None
    count = int(_stored(tensor).sum())
    options: list[Encoding] = [Encoding("bitmask", type_, count)]
    if _fits_csr(type_):
        options.append(Encoding("csr", type_, count))
    fitting = [found for found in options if found.bytes < dense <= found.bytes * MOST_GAIN]
    return min(fitting, key=lambda found: found.bytes, default=None)


def stored_bytes(type_: TensorType, tensor: torch.Tensor) -> int:
    """Bytes of a tensor in a saved folder."""
    found = choose_encoding(type_, tensor)
    return found.bytes if found is not None else tensor.numel() * tensor.element_size()


def encoding_of_parts(key: str, type_: TensorType, shapes: Mapping[str, object]) -> Encoding:
    """The encoding that the keys and shapes in a file's header speak of; shapes are compared by the caller.

    Raises:
        ArtifactError: they are none that a tensor of this type may have.
    """
    if type_.sparsity is None or type_.dtype is DType.c128:
        raise _broken(key, f"is kept sparse, and {type_.text} is not annotated as such, or can't be")
    values = shapes.get(f"{PREFIX}values:{key}")
    match values:
        case [int(count)] if type(count) is int and 0 <= count <= prod(type_.static_shape):
            pass
        case _:
            raise _broken(key, f"has values of the shape {str(values)[:80]}, needs up to {prod(type_.static_shape)} in one axis")
    kind: Literal["bitmask", "csr"] = "bitmask" if f"{PREFIX}mask:{key}" in shapes else "csr"
    found = Encoding(kind, type_, count)
    dense = prod(type_.static_shape) * type_.dtype.bytes
    if kind == "csr" and not _fits_csr(type_):
        raise _broken(key, f"is kept by rows, which {type_.text} is too large for")
    if dense > found.bytes * MOST_GAIN:
        raise _broken(key, f"has {found.bytes} bytes for {dense}, at most {MOST_GAIN} times as many are read")
    return found


def encode(encoding: Encoding, tensor: torch.Tensor) -> dict[str, bytes]:
    """The bytes of each part, by the word between the colons: `values`, and `mask`, or `rows` and `columns`.

    Raises:
        ArtifactError: the tensor has another number of values than when the encoding was chosen.
    """
    import numpy

    stored = _stored(tensor)
    if int(stored.sum()) != encoding.count:
        raise ArtifactError(f"a sparse tensor of {encoding.count} values has {int(stored.sum())} now", fix="save while nothing trains")
    content = _bytes(tensor)[stored].tobytes()
    if encoding.kind == "bitmask":
        return {"values": content, "mask": numpy.packbits(stored, bitorder="little").tobytes()}
    rows, columns = _matrix(encoding.type)
    matrix = stored.reshape(rows, columns)
    starts = numpy.concatenate([[0], matrix.sum(1).cumsum()]).astype("<i4")
    places = matrix.nonzero()[1].astype("<i4" if columns > _WIDE else "<u2")
    return {"values": content, "rows": starts.tobytes(), "columns": places.tobytes()}


def decode(key: str, encoding: Encoding, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The dense tensor; `parts` by the word between the colons.

    Raises:
        ArtifactError: mask, rows or columns do not fit each other or the shape.
    """
    import numpy
    import torch

    type_ = encoding.type
    elements = prod(type_.static_shape)
    if encoding.kind == "bitmask":
        bits = numpy.unpackbits(parts["mask"].numpy(), bitorder="little")
        places = bits[:elements].nonzero()[0]
        if bits[elements:].any():
            raise _broken(key, f"has a mask with bits beyond its {elements} elements")
    else:
        places = _places(key, encoding, parts["rows"].numpy(), parts["columns"].numpy())
    if len(places) != encoding.count:
        raise _broken(key, f"has {encoding.count} values and a mask for {len(places)}")
    content = numpy.zeros((elements, type_.dtype.bytes), dtype=numpy.uint8)
    content[places] = _bytes(parts["values"])
    return torch.from_numpy(content.reshape(-1)).view(getattr(torch, type_.dtype.torch_name)).reshape(type_.static_shape)


def _places(key: str, encoding: Encoding, starts: NDArray[Any], columns: NDArray[Any]) -> NDArray[numpy.int64]:
    """The flat indices of stored elements; rows and columns in order, each place once."""
    import numpy

    rows, width = _matrix(encoding.type)
    starts, columns = starts.astype(numpy.int64), columns.astype(numpy.int64)
    if starts[0] != 0 or starts[-1] != encoding.count or (numpy.diff(starts) < 0).any():
        raise _broken(key, f"has rows that do not go from 0 to its {encoding.count} values in order")
    if len(columns) and (columns.min() < 0 or columns.max() >= width):
        raise _broken(key, f"has columns from {columns.min()} to {columns.max()}, needs 0 to {width - 1}")
    places = numpy.repeat(numpy.arange(rows), numpy.diff(starts)) * width + columns
    if (numpy.diff(places) <= 0).any():
        raise _broken(key, "has columns that are not in order within a row")
    return places


def _matrix(type_: TensorType) -> tuple[int, int]:
    shape = type_.static_shape
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def _fits_csr(type_: TensorType) -> bool:
    return prod(type_.static_shape) < 1 << 31


def _bytes(tensor: torch.Tensor) -> NDArray[numpy.uint8]:
    """[elements, bytes of an element]."""
    import torch

    plain: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else None
    if plain is None:
        import numpy

        return numpy.zeros((0, tensor.element_size()), dtype=numpy.uint8)
    return plain.reshape(tensor.numel(), tensor.element_size())


def _stored(tensor: torch.Tensor) -> NDArray[numpy.bool_]:
    import numpy

    return numpy.asarray(_bytes(tensor).any(1))


def _broken(key: str, what: str) -> ArtifactError:
    return ArtifactError(f"weights.safetensors: '{key[:80]}' {what}")
