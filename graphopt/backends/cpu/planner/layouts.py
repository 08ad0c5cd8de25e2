"""Which layout each value wants, and the halo that its readers need.

Images that only convolutions, pools and elementwise ops touch are *blocked*: pixels of 16 channels lie
together whatever the number of channels, and no two rows compete for the same cache lines. Images that are
also looked at as tokens (permuted to [N, H, W, C], reshaped to [N, H*W, C]), or whose channels are cut where
no group of 16 ends, are stored *channels last*; then those views move no data. Everything else is plain.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.backends.cpu.planner.groups import is_vector_node
from graphopt.backends.cpu.storage import LANES, Storage, blocked, channels_last, plain
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.ops.families import POOLS

__all__ = ["Layouts"]

_SAME_LAYOUT = (
    frozenset({"concat", "split", "slice", "resize", "batch_norm", "group_norm", "instance_norm", "pad", "dropout", "feature_dropout"})
    | POOLS
)
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"})


class Layouts:
    """Wishes of all values of a list of nodes."""

    def __init__(self, nodes: Iterable[Node], shapes: Shapes) -> None:
        self._shapes = shapes
        self._parent: dict[Value, Value] = {}
        self._last: set[Value] = set()
        self._images: set[Value] = set()
        self._halo: dict[Value, tuple[int, int]] = {}
        nodes = list(nodes)
        for node in nodes:
            self._look(node)
        self._last_roots = {self._root(value) for value in self._last}
        self._image_roots = {self._root(value) for value in self._images}
        for node in reversed(nodes):
            self._pass_halo(node)

    def _root(self, value: Value) -> Value:
        while self._parent.setdefault(value, value) is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value

    def _tie(self, values: list[Value]) -> None:
        images = [value for value in values if self._is_image(value)]
        for value in images[1:]:
            self._parent[self._root(value)] = self._root(images[0])

    def _is_image(self, value: Value) -> bool:
        return value.type.rank in (3, 4) and value.type.dtype is DType.f32 and value.producer is not None

    def _look(self, node: Node) -> None:
        values = [operand for operand in node.operands if isinstance(operand, Value)]
        if node.op in _CONVOLUTIONS:
            x, y = values[0], node.results[0]
            self._images.update(value for value in (x, y) if self._is_image(value))
            groups = node.attrs["groups"]
            if groups != 1:  # a dense convolution may change the layout on its way, others keep it
                self._tie([x, y])
            if groups == 1 or groups != self._shapes.of(x)[1]:  # depthwise kernels clip
                self._want_halo(node, x)
        elif node.op in _SAME_LAYOUT or is_vector_node(node):
            rank = node.results[0].type.rank
            self._tie([value for value in (*values, *node.results) if value.type.rank == rank])
            if node.op in POOLS:
                self._images.update(value for value in (values[0], *node.results) if self._is_image(value))
            if node.op in ("concat", "split") and node.attrs["axis"] == 1:
                cut = values if node.op == "concat" else node.results
                if any(self._shapes.of(value)[1] % LANES for value in cut[:-1]):
                    self._last.update(value for value in cut if self._is_image(value))
            if (
                node.op == "slice"
                and node.attrs["axis"] == 1
                and (self._shapes.dim(node.attrs["start"]) % LANES or node.attrs["step"] != 1)
            ):
                self._last.add(values[0])
        elif node.op == "permute" and values[0].type.rank == 4:
            axes = self._shapes.dims(node.attrs["axes"])
            if axes == (0, 2, 3, 1):  # [N, C, H, W] seen as [N, H, W, C]
                self._last.add(values[0])
            elif axes == (0, 3, 1, 2):
                self._last.add(node.results[0])
        elif node.op == "reshape" and self._is_tokens(node):
            self._last.add(values[0])

    def _is_tokens(self, node: Node) -> bool:
        """[N, C, H, W] -> [N, C, H*W] that is only permuted to [N, H*W, C] afterwards."""
        x, y = node.operands[0], node.results[0]
        if not isinstance(x, Value) or x.type.rank != 4 or y.type.rank != 3 or self._shapes.of(x)[:2] != self._shapes.of(y)[:2]:
            return False
        return all(user.op == "permute" and self._shapes.dims(user.attrs["axes"]) == (0, 2, 1) for user in y.users)

    def _want_halo(self, node: Node, x: Value) -> None:
        if node.op.startswith("conv_transpose"):
            return  # its kernel clips
        padding = self._shapes.dims(node.attrs["padding"])
        halo = (padding[0], padding[1]) if len(padding) == 2 else (0, padding[0])
        have = self._halo.get(x, (0, 0))
        self._halo[x] = (max(have[0], halo[0]), max(have[1], halo[1]))

    def _pass_halo(self, node: Node) -> None:
        # a concatenation is written in place by those that make its parts; so their halo is its halo
        if node.op == "concat":
            for operand in node.operands:
                if isinstance(operand, Value):
                    have, want = self._halo.get(operand, (0, 0)), self._halo.get(node.results[0], (0, 0))
                    self._halo[operand] = (max(have[0], want[0]), max(have[1], want[1]))

    def halo(self, value: Value) -> tuple[int, int]:
        """Zeros around the image that readers of the value need."""
        return self._halo.get(value, (0, 0)) if value.type.rank in (3, 4) else (0, 0)

    def wish(self, value: Value) -> str:
        """`blocked`, `last` or `plain`."""
        shape = self._shapes.of(value)
        if len(shape) not in (3, 4) or value.type.dtype is not DType.f32 or not self._is_image(value):
            return "plain"
        root = self._root(value)
        if root not in self._image_roots and root not in self._last_roots:
            return "plain"
        if root in self._last_roots:
            return "last" if len(shape) == 4 else "plain"
        if len(shape) == 3:
            return "last"
        return "plain" if shape[2:] == (1, 1) else "blocked"

    def allocate(self, value: Value, buffer: str) -> Storage:
        """A storage for a value on a buffer of its own."""
        return make_storage(self.wish(value), buffer, value.type.dtype, self._shapes.of(value), self.halo(value))


def make_storage(layout: str, buffer: str, dtype: DType, shape: tuple[int, ...], halo: tuple[int, int] = (0, 0)) -> Storage:
    """A storage that covers a buffer: `plain`, `blocked` or `last`."""
    if layout == "blocked":
        return blocked(buffer, dtype, shape, halo)
    if layout == "last":
        if len(shape) == 3:  # [N, C, L] as an image of one row
            n, channels, length = shape
            image = channels_last(buffer, dtype, (n, channels, 1, length), (0, halo[1]))
            seen = image.select(2, 0)
            assert seen is not None
            return Storage(buffer, dtype, shape, seen.strides, image.offset, halo=(0, halo[1]) if halo[1] else (0, 0))
        return channels_last(buffer, dtype, shape, halo)
    return plain(buffer, dtype, shape, halo)
