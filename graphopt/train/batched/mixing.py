"""Layers that mix the rows of a batch: batch norms that compute with the statistics of the batch that they see.

With one of them the gradients of a batch are not the sum of those of its pieces, whatever the weights of the sum.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from graphopt.ir.graph import Graph, Node

__all__ = ["mixing_node", "mixing_part"]


def mixing_part(module: nn.Module) -> str | None:
    """The name of the first batch norm that mixes rows in the mode that the module is in; None where there is none.

    Modules made of graphs have no batch norms, and are known by the buffer `running_mean`.
    """
    for name, part in module.named_modules():
        match part:
            case _BatchNorm():
                mixes = part.training or part.running_mean is None
            case _InstanceNorm():
                mixes = False
            case _:
                mixes = part.training and any(buffer == "running_mean" for buffer, _ in part.named_buffers(recurse=False))
        if mixes:
            return name or type(part).__name__
    return None


def mixing_node(graph: Graph) -> str | None:
    """The name of the first batch norm of a graph that mixes rows in train mode; None where there is none."""
    return next((node.name for node in _nodes(graph) if node.op == "batch_norm" and _mixes(node)), None)


def _mixes(node: Node) -> bool:
    return node.attrs["mode"] != "eval" or node.operands[3] is None


def _nodes(graph: Graph) -> list[Node]:
    """All nodes, those of regions among them."""
    return [inner for node in graph.nodes for inner in (node, *(found for region in node.regions for found in _nodes(region)))]
