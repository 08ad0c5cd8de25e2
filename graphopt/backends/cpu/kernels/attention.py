"""Scaled dot product attention as one kernel (`attention.hpp`): softmax(q k^T * scale + masks) v.

    q, k, v   [..., T, D] views of any strides, such as the heads inside a packed [B, T, 3 * H * D]
    y         [..., T, D] of any strides, such as [B, T, H * D] seen as heads: no head is ever copied out or back

Neither scores nor probabilities exist as a whole. Numeric class: f32 throughout, the softmax in one pass over blocks
of keys that is rescaled when a maximum grows. A row whose scores are all -inf is 0, as torch has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.batches import collapse_batch
from graphopt.backends.cpu.kernels.shape_code import Value, shape_code
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType

if TYPE_CHECKING:
    import numpy

__all__ = ["Attention", "attention_candidates", "grouped_views"]

_LOG2_E = math.log2(math.e)
_SINGLE_QUERIES = 4
"""As in `attention.hpp`: so many queries beyond whole vectors are done one by one."""
_TILE_ROWS = 14
"""The tallest tile of keys, on any machine."""


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def _numbers(read: ReadState, storage: Storage) -> numpy.ndarray:
    """What a storage shows of a state, as an array."""
    import numpy

    flat = numpy.ascontiguousarray(read(storage.buffer.removeprefix("state:"))).reshape(-1)
    strides = [stride * flat.itemsize for stride in storage.strides]
    return numpy.lib.stride_tricks.as_strided(flat[storage.offset :], storage.shape, strides, writeable=False)


@dataclass(frozen=True)
class _Batch:
    """The batch axes of all operands as few, and the strides of each mask in them."""

    sizes: tuple[int, ...]
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    y: tuple[int, ...]
    masks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Attention(Kernel):
    """y = softmax(q @ k.T * scale + sum of masks) @ v.

    All storages have the batch axes of y, broadcast ones with stride 0 (`Storage.expand`); masks are expanded to
    [..., queries, keys], floats that are added or bools that keep where true. Masks that are states (buffer
    `state:NAME`) are transposed beforehand. `causal` keeps keys up to the query's own position.

    `query_vectors` x 16 queries are worked on at a time, over blocks of `key_block` keys.
    """

    q: Storage
    k: Storage
    v: Storage
    y: Storage
    scale: float
    masks: tuple[Storage, ...] = ()
    causal: bool = False
    query_vectors: int = 2
    key_block: int = 70

    algorithm: ClassVar[str] = "attention"
    headers: ClassVar[tuple[str, ...]] = ("attention.hpp",)

    @property
    def reads(self) -> Sequence[Storage]:
        """q, k, v and the masks that are computed."""
        return (self.q, self.k, self.v, *(mask for mask in self.masks if not _is_state(mask)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(queries, keys, features, values)."""
        return self.q.shape[-2], self.k.shape[-2], self.q.shape[-1], self.v.shape[-1]

    @property
    def flops(self) -> int:
        """Of the two products; a causal one is not halved."""
        queries, keys, features, values = self.sizes
        return 2 * math.prod(self.y.shape[:-2]) * queries * keys * (features + values)

    @property
    def scratch(self) -> int:
        """Packed keys and values of one batch item, and a block of queries, scores and outputs."""
        _, keys, features, values = self.sizes
        width = self.query_vectors * LANES
        rows = keys * (_padded(features) + _padded(values))
        block = min(_padded(keys) + _TILE_ROWS, max(self.key_block, 1) + 2 * _TILE_ROWS)
        return rows + max(block * width, _padded(keys)) + (_padded(features) + _padded(values) + 3) * width

    @property
    def packed(self) -> Sequence[Packed]:
        """Masks that are states, as [..., keys, queries] with queries padded to whole vectors."""
        queries, keys, _, _ = self.sizes
        return tuple(Packed("mask", "f32", (*self._packed_batch(mask), keys, _padded(queries))) for mask in self.masks if _is_state(mask))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """Transposed, in units of log2."""
        import numpy

        queries, keys, _, _ = self.sizes
        arrays: list[numpy.ndarray] = []
        for mask in self.masks:
            if not _is_state(mask):
                continue
            numbers = _numbers(read, mask)[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.strides[:-2])]
            if mask.dtype is DType.boolean:
                numbers = numpy.where(numbers, 0.0, -numpy.inf)
            packed = numpy.zeros((*self._packed_batch(mask), keys, _padded(queries)), dtype=numpy.float32)
            packed[..., :queries] = numpy.swapaxes(numbers.astype(numpy.float64) * _LOG2_E, -1, -2)
            arrays.append(packed)
        return arrays

    def _packed_batch(self, mask: Storage) -> tuple[int, ...]:
        return tuple(1 if stride == 0 else size for size, stride in zip(mask.shape[:-2], mask.strides[:-2], strict=True))

    def _batch(self) -> _Batch:
        queries, keys, _, _ = self.sizes
        strides = [storage.strides[:-2] for storage in (self.q, self.k, self.v, self.y)]
        for mask in self.masks:
            if _is_state(mask):
                step = keys * _padded(queries)
                found: list[int] = []
                for size in reversed(self._packed_batch(mask)):
                    found.append(step if size > 1 else 0)
                    step *= size
                strides.append(tuple(reversed(found)))
            else:
                strides.append(mask.strides[:-2])
        sizes, found_strides = collapse_batch(self.y.shape[:-2], strides)
        q, k, v, y, *masks = found_strides
        return _Batch(sizes, q, k, v, y, tuple(masks))

    def describe(self) -> str:
        """Batch, queries x keys x features, what masks there are, the block."""
        queries, keys, features, values = self.sizes
        batch = math.prod(self.y.shape[:-2])
        masks = "".join(
            f" + {'constant ' if _is_state(mask) else ''}{'bool ' if mask.dtype is DType.boolean else ''}mask" for mask in self.masks
        )
        shape = f"{batch} x {queries}x{keys}x{features}" + (f"->{values}" if values != features else "")
        return f"{shape}{' causal' if self.causal else ''}{masks}, block {self.query_vectors * LANES}x{self.key_block}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `attention`."""
        queries, keys, features, values = self.sizes
        batch = self._batch()
        constants: dict[str, Value | tuple[Value, str]] = {
            "QUERIES": queries,
            "KEYS": keys,
            "FEATURES": (features, "of queries and keys"),
            "VALUES": (values, "features of values and results"),
            "BATCH": batch.sizes,
        }
        for name, storage, steps in (("Q", self.q, batch.q), ("K", self.k, batch.k), ("V", self.v, batch.v), ("Y", self.y, batch.y)):
            constants |= {f"{name}_BATCH": steps, f"{name}_ROW": storage.strides[-2], f"{name}_STEP": storage.strides[-1]}
        constants |= {
            "SCALE": float(self.scale),
            "CAUSAL": self.causal,
            "QUERY_VECTORS": (self.query_vectors, "of a block of queries"),
            "KEY_BLOCK": (self.key_block, "keys of a block"),
            "SCRATCH": (self.scratch, "floats"),
        }
        declarations = [shape_code(constants, "Shape")]
        arguments = [pointers.read(self.q), pointers.read(self.k), pointers.read(self.v), pointers.write(self.y)]
        packed = 0
        for index, (mask, steps) in enumerate(zip(self.masks, batch.masks, strict=True)):
            if _is_state(mask):
                declarations.append(shape_code({"BATCH": steps, "STEP": (_padded(queries), "of a key")}, f"Mask{index}"))
                arguments.append(f"packed_attention_mask<Mask{index}>({pointers.packed(packed)})")
                packed += 1
            else:
                declarations.append(shape_code({"BATCH": steps, "ROW": _stride(mask, -2), "STEP": _stride(mask, -1)}, f"Mask{index}"))
                arguments.append(f"attention_mask<Mask{index}>({pointers.read(mask)})")
        return Code("\n".join(declarations), f"attention<Shape>(worker, {', '.join(arguments)});")


def _is_state(mask: Storage) -> bool:
    return mask.buffer.startswith("state:") and mask.blocked_axis is None


def _stride(mask: Storage, axis: int) -> int:
    # an axis of one element is read where its neighbours' lanes are
    return 0 if mask.shape[axis] == 1 else mask.strides[axis]


def grouped_views(
    q: Storage, k: Storage, v: Storage, y: Storage, masks: Sequence[Storage]
) -> tuple[Storage, Storage, Storage, Storage, tuple[Storage, ...]] | None:
    """Operands of grouped attention with the heads of q as [heads of k, heads that share one]; None where no view does it.

    `masks` are expanded to [..., heads of q, queries, keys].
    """
    heads, groups = q.shape[-3], k.shape[-3]
    if v.shape[-3] != groups:
        return None

    def split(storage: Storage) -> Storage | None:
        return storage.reshape((*storage.shape[:-3], groups, heads // groups, *storage.shape[-2:]))

    def shared(storage: Storage) -> Storage | None:
        found = storage.reshape((*storage.shape[:-2], 1, *storage.shape[-2:]))
        return None if found is None else found.expand((*found.shape[:-3], heads // groups, *found.shape[-2:]))

    found = [split(q), shared(k), shared(v), split(y), *(split(mask) for mask in masks)]
    seen = [storage for storage in found if storage is not None]
    return (seen[0], seen[1], seen[2], seen[3], tuple(seen[4:])) if len(seen) == len(found) else None


def attention_candidates(
    q: Storage,
    k: Storage,
    v: Storage,
    y: Storage,
    scale: float | None = None,
    masks: Sequence[Storage] = (),
    causal: bool = False,
    grouped: bool = False,
) -> list[Kernel]:
    """Kernels for an attention node; empty where a storage does not fit (a blocked axis, or heads that no view splits).

    q, k, v and the masks may have fewer or broadcast batch axes; they are expanded here.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if any(storage.blocked_axis is not None for storage in (q, k, v, y, *masks)) or 0 in (*y.shape, k.shape[-2], q.shape[-1]):
        return []
    batch = y.shape[:-2]
    scores = (*batch, q.shape[-2], k.shape[-2])
    expanded = [mask.expand(scores) for mask in masks]
    if grouped:
        queries = [q.expand((*batch, *q.shape[-2:])), *(part.expand((*batch[:-1], *part.shape[-3:])) for part in (k, v))]
    else:
        queries = [part.expand((*batch, *part.shape[-2:])) for part in (q, k, v)]
    found = [storage for storage in (*queries, *expanded) if storage is not None]
    if len(found) != 3 + len(masks):
        return []
    q, k, v, *rest = found
    masks = tuple(rest)
    if grouped:
        views = grouped_views(q, k, v, y, masks)
        if views is None:
            return []
        q, k, v, y, masks = views
    vectors = -(-(q.shape[-2] - (q.shape[-2] % LANES if q.shape[-2] % LANES <= _SINGLE_QUERIES else 0)) // LANES)
    blocks = dict.fromkeys([(min(3, max(vectors, 1)), 100), (min(2, max(vectors, 1)), 70)])
    return [Attention(q, k, v, y, scale, tuple(masks), causal, query_vectors, key_block) for query_vectors, key_block in blocks]
