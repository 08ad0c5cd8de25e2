"""Which elements of a parameter are zero for good: masks, where True is a weight that is kept and trained.

    masks_of(graph)                      {"conv.weight": bool[64,64,3,3], ...}
    masks_of(result.module)              the same, also inside a larger module, under the names there

A sparsity annotation says how zeros lie. Of `block 4x1` only blocks that are zero as a whole are masked, so a weight
inside a kept block that happens to be zero is trained on. Parameters without an annotation are masked where they are
zero, if they have two axes or more and are neither free of zeros nor all zero: a bias or the second factor of a
low-rank adapter starts at zero and has to be trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

import numpy
import torch
from torch import nn

from graphopt.capture.module import CapturedModule
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.train.sharded import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PackedMask", "annotations_of", "block_expand", "block_reduce", "mask_of", "masks_of", "pack", "unpack"]


class PackedMask(TypedDict):
    """A mask with eight elements to a byte, for state dicts."""

    shape: list[int]
    bits: torch.Tensor


def masks_of(source: nn.Module | Graph) -> dict[str, torch.Tensor]:
    """The masks of the sparse parameters, bool and of the parameter's shape, by name; dense ones are left out.

    Raises:
        UsageError: `source` is neither a module nor a graph, or an annotated parameter has no numbers.
    """
    if isinstance(source, Graph):
        return dict(_masks_of_graph(source))
    if not isinstance(source, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise UsageError(
            f"masks can't be read from a {type(source).__name__}, needs a module or a graph",
            fix="masks_of(result.module) or masks_of(result.graph)",
        )
    annotations = annotations_of(source)
    found = ((name, mask_of(parameter, annotations.get(name))) for name, parameter in source.named_parameters())
    return {name: mask for name, mask in found if mask is not None}


def annotations_of(module: nn.Module) -> Mapping[str, Sparsity]:
    """The annotations of all modules made by `graph.to_module()` in a module, by the parameters' names there."""
    return {
        f"{prefix}.{name}" if prefix else name: annotation
        for prefix, part in module.named_modules()
        if isinstance(part, CapturedModule)
        for name, annotation in part.sparsity.items()
    }


def mask_of(tensor: torch.Tensor, annotation: Sparsity | None = None) -> torch.Tensor | None:
    """The mask of one parameter by the rules above; None for a dense one. -0.0 is a zero, NaN is not."""
    filled = whole(tensor.detach()) != 0
    if annotation is None:
        count = int(filled.sum()) if filled.dim() >= 2 else 0
        return filled if 0 < count < filled.numel() else None
    if annotation.pattern is SparsityPattern.BLOCK:
        return block_expand(block_reduce(filled, annotation.shape).any(-1), annotation.shape, filled.shape)
    return filled


def block_reduce(tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """[rows / R, columns / C, R * C]: the elements of each block; rows are axis 0, columns all others flattened.

    Blocks at a ragged end are filled up with zeros.
    """
    rows, columns = shape
    matrix = tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(-1, 1)
    height, width = matrix.shape
    padded = matrix.new_zeros((-(-height // rows) * rows, -(-width // columns) * columns))
    padded[:height, :width] = matrix
    return padded.reshape(padded.shape[0] // rows, rows, -1, columns).permute(0, 2, 1, 3).flatten(2)


def block_expand(blocks: torch.Tensor, shape: tuple[int, int], full: torch.Size) -> torch.Tensor:
    """One number per block, [rows / R, columns / C], as a tensor of the shape `full`."""
    rows, columns = shape
    height = full[0]
    width = full.numel() // height if height else 0
    return blocks.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[:height, :width].reshape(full)


def pack(mask: torch.Tensor) -> PackedMask:
    """A mask in one bit per element, on the CPU."""
    bits = numpy.packbits(whole(mask).cpu().numpy())
    return {"shape": list(mask.shape), "bits": torch.from_numpy(bits)}


def unpack(packed: PackedMask, device: torch.device) -> torch.Tensor:
    """The mask that `pack` was given."""
    shape = torch.Size(packed["shape"])
    bits = numpy.unpackbits(packed["bits"].cpu().numpy(), count=shape.numel())
    return torch.from_numpy(bits.astype(numpy.bool_)).reshape(shape).to(device)


def _masks_of_graph(graph: Graph) -> Iterator[tuple[str, torch.Tensor]]:
    for name, state in graph.states.items():
        if state.kind != "param" or not state.type.dtype.is_float:
            continue
        if state.data is None:
            if state.type.sparsity is None:
                continue
            raise UsageError(f"%{name} is annotated {state.type.sparsity.text} and has no numbers", fix="load the graph from its folder")
        mask = mask_of(state.data.tensor(), state.type.sparsity)
        if mask is not None:
            yield name, mask
