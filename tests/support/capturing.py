"""Captures a model and compares the graph with the model itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt import ops
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.capture import capture
from graphopt.errors import GraphoptWarning
from graphopt.ir.attributes import attribute_text
from graphopt.ir.graph import Graph, Value

__all__ = ["body", "capture_checked", "opaque_ops", "run", "tensors"]


def tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors of nested inputs or outputs, in order."""
    plain = dict(tree) if isinstance(tree, Mapping) else tree
    return [leaf for leaf in pytree.tree_leaves(plain) if isinstance(leaf, torch.Tensor)]


def run(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, precise: bool = False) -> list[torch.Tensor]:
    """Flat outputs of a graph on structured inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        return list(Interpreter(graph, precise=precise).run(*tensors((tuple(args), dict(kwargs or {})))))


def capture_checked(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, dynamic: Any = None, double: bool = True
) -> Graph:
    """Capture in eval mode, verify, and compare with the model: equal in float32, to 1e-12 in float64."""
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphoptWarning)
        graph = capture(model, args, kwargs=kwargs, dynamic=dynamic)
    ops.verify(graph)
    _compare(model, graph, args, kwargs or {}, tolerance=2e-6, precise=False)
    if double:
        twin = copy.deepcopy(model).double()
        wide_args, wide_kwargs = pytree.tree_map(_widen, (args, kwargs or {}))
        _compare(twin, graph, wide_args, wide_kwargs, tolerance=1e-12, precise=True)
    return graph


def _widen(item: Any) -> Any:
    return item.double() if isinstance(item, torch.Tensor) and item.is_floating_point() else item


def _compare(model: nn.Module, graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any], *, tolerance: float, precise: bool) -> None:
    own = copy.deepcopy((args, kwargs))  # a model may write to its inputs
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = tensors(model(*own[0], **own[1]))
    for want, got in zip(wanted, run(graph, args, kwargs, precise=precise), strict=True):
        assert (want.dtype, want.shape) == (got.dtype, got.shape)
        scale = float(want.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if want.numel() else 1.0
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(scale, 1.0), equal_nan=True)


def opaque_ops(graph: Graph) -> set[str]:
    """Names of the ops of a graph that are not in the op table."""
    return {node.op for node in graph.nodes if not ops.is_canonical(node.op)}


def body(graph: Graph) -> list[str]:
    """The lines of the nodes, without types: `%relu = relu(%x)`."""
    lines: list[str] = []
    for node in graph.nodes:
        operands = ", ".join(f"%{o.name}" if isinstance(o, Value) else attribute_text(o) for o in node.operands)
        lines.append(f"{', '.join('%' + result.name for result in node.results)} = {node.op}({operands})")
    return lines
