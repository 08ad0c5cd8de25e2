"""Small graphs of one node each, for every op of the table, with inputs to run them on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from graphopt import ops
from graphopt.errors import GraphoptError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType
from tests.ops.random_calls import DRAW, draw

__all__ = ["COND", "OPS", "cond_samples", "equal", "graph_of", "random_tensor", "samples", "torch_dtype"]

OPS = sorted(DRAW)

COND = """
graph choose(%p: bool[], %x: f32[batch,3]) where batch in [1, 8] {
  %y: f32[batch,3], %z: f32[3,batch] = cond(%p, %x) regions {
    graph then(%a: f32[batch,3]) where batch in [1, 8] {
      %b: f32[batch,3] = mul(%a, batch)
      %t: f32[3,batch] = permute(%b) {axes=(1, 0)}
      return %b, %t
    }
    graph else(%a: f32[batch,3]) where batch in [1, 8] {
      constant %offset: f32[3]
      %o: f32[batch,3] = add(%a, %offset)
      %d: f32[batch,3] = dropout(%o) {mode="follow", p=0.5}
      %n: f32[batch,3] = neg(%d)
      %t: f32[3,batch] = permute(%n) {axes=(1, 0)}
      return %a, %t
    }
  }
  return %y, %z
}
"""


def torch_dtype(dtype: DType) -> torch.dtype:
    found = getattr(torch, dtype.torch_name)
    assert isinstance(found, torch.dtype)
    return found


def random_tensor(type_: TensorType, *, index: bool = False) -> torch.Tensor:
    """Normal floats, small positive integers (zeros where they index something), random booleans."""
    shape, dtype = type_.static_shape, torch_dtype(type_.dtype)
    if type_.dtype.kind == "float":
        return torch.randn(shape, dtype=torch.float64).to(dtype)
    if type_.dtype is DType.boolean:
        return torch.rand(shape) < 0.5
    return torch.zeros(shape, dtype=dtype) if index else torch.randint(1, 4, shape).to(dtype)


def graph_of(op: str, operands: Sequence[Any], attrs: dict[str, Any]) -> Graph:
    """A graph whose inputs are the tensor operands and whose outputs are all results."""
    builder = ops.builder(f"sample_{op}")
    values = [builder.input(f"x{i}", operand) if isinstance(operand, TensorType) else operand for i, operand in enumerate(operands)]
    node = builder.add(op, *values, **attrs)
    builder.outputs(*node.results)
    return builder.graph


def samples(op: str, count: int, tries: int = 400) -> Iterator[tuple[Graph, list[torch.Tensor], list[Any], dict[str, Any]]]:
    """(graph, flat inputs, operands with tensors in place of types, attributes) of random calls that the op's rule takes."""
    found = 0
    for seed in range(tries):
        operands, attrs = draw(op, seed)
        try:
            graph = graph_of(op, operands, attrs)
        except GraphoptError:
            continue
        torch.manual_seed(seed)
        given = [random_tensor(o, index=op in ops.GATHERS) if isinstance(o, TensorType) else o for o in operands]
        yield graph, [t for t in given if isinstance(t, torch.Tensor)], given, attrs
        found += 1
        if found == count:
            return


def cond_samples() -> Iterator[tuple[Graph, list[torch.Tensor]]]:
    """Both branches; the second holds a constant, 1."""
    for flag in (True, False):
        graph = parse(COND)
        region = next(iter(graph.nodes)).regions[1]
        GraphEditor(region).update_state(replace(region.states["offset"], data=TensorData(torch.ones(3))))
        yield graph, [torch.tensor(flag), torch.randn(2, 3)]


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bits, but any NaN equals any other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return (
        torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        and torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan())
    )
