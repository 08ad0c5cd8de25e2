"""The student and the teacher of a recovery: a module that takes batches and gives flat outputs and features.

A graph becomes a module whose flat `forward` also returns the values that are to be compared. It works on numbers of
its own, so that nothing that the caller has is changed before the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.analysis.sparsity import annotation_holds
from graphopt.analysis.sparsity_patterns import fitting_pattern
from graphopt.capture.module import to_module
from graphopt.errors import UsageError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor, State, Value
from graphopt.ir.types import Sparsity
from graphopt.ops import TRANSPOSED_CONVOLUTIONS
from graphopt.rewrite.rewriter import Rewriter
from graphopt.train.batched.mixing import mixing_node, mixing_part
from graphopt.train.batched.planned import ActivationMemory, Planned
from graphopt.train.recovery.data import TrainingBatch

__all__ = ["Network", "graph_of", "own_copy", "shared_features"]

_LEAST = 0.3
"""Fraction of zeros from which on a weight counts as sparse, as in `annotate-sparsity`."""


def graph_of(source: object, role: str) -> Graph | nn.Module:
    """The graph or module in what the caller gave: a result of `optimize`, a graph or a module.

    Raises:
        UsageError: it is none of these, or a graph whose states have no numbers.
    """
    found = getattr(source, "graph", None) if not isinstance(source, nn.Module | Graph) else source
    if isinstance(found, nn.Module):
        return found
    if not isinstance(found, Graph):
        raise UsageError(
            f"the {role} is a {type(source).__name__}, needs a result of optimize, a graph or a module",
            fix="make it a torch.nn.Module whose forward calls it" if callable(source) else None,
        )
    empty = next((state.name for state in found.states.values() if state.data is None), None)
    if empty is not None:
        raise UsageError(f"the {role} has no numbers for %{empty}", fix="load the graph from its folder, or capture it from the model")
    return found


def own_copy(graph: Graph) -> Graph:
    """The graph with copies of its parameters and buffers in memory; constants are shared."""
    copied = graph.clone()
    editor = GraphEditor(copied)
    for state in list(copied.states.values()):
        if state.data is not None and state.kind != "constant":
            editor.update_state(replace(state, data=TensorData(state.data.tensor().detach().clone()), digest=None))
    return copied


class Network:
    """A module called with batches. `graph` is None where the caller gave a module."""

    def __init__(
        self,
        source: Graph | nn.Module,
        features: Sequence[str] = (),
        *,
        copied: bool = True,
        activation_memory: ActivationMemory = None,
        frozen_norms: bool = False,
    ) -> None:
        """`frozen_norms`: batch norms normalise with their running statistics in train mode too, and leave them as they are."""
        self.features = tuple(features)
        self.contiguous_outputs = False
        """True while weights lie in another order than the caller gave them, who may look at outputs by `view`."""
        self.planned: Planned | None = None
        self._frozen_norms = frozen_norms
        self._computed: Graph | None = None
        if isinstance(source, Graph):
            self.graph: Graph | None = own_copy(source) if copied else source
            computed = _with_outputs(self.graph, features)
            computed = self._computed = _with_frozen_norms(computed) if frozen_norms else computed
            self.module: nn.Module = to_module(computed, flat=True)
            if activation_memory is not None:
                self.planned = Planned(computed, self.module, activation_memory)
            self.public: nn.Module = to_module(self.graph)
        else:
            self.graph = None
            self.module = self.public = copy.deepcopy(source) if copied else source

    def train(self) -> None:
        """Train mode, but for batch norms that are frozen."""
        self.module.train()
        if self._frozen_norms and self._computed is None:
            for part in self.module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    part.eval()

    def call(self, module: nn.Module, batch: TrainingBatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The floating-point outputs and the features for a batch; `module` is this network's, maybe wrapped."""
        found: Any = module(*batch.args, **batch.kwargs)
        flat = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        count = len(flat) - len(self.features)
        outputs = [tensor for tensor in flat[:count] if tensor.is_floating_point()]
        return [tensor.contiguous() for tensor in outputs] if self.contiguous_outputs else outputs, flat[count:]

    def mixes_rows(self) -> str | None:
        """The name of a batch norm that computes with statistics of the batch while this is trained; None where there is none."""
        if self._computed is not None:
            return mixing_node(self._computed)
        mode = self.module.training
        self.train()  # a module's own `train` may leave its batch norms in eval mode
        found = mixing_part(self.module)
        self.module.train(mode)
        return found

    @torch.no_grad()
    def publish(self) -> nn.Module:
        """The module as the caller calls it, in eval mode, with the numbers of now."""
        self.module.eval()
        if self.public is self.module:
            return self.public
        mine = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        for name, tensor in (*self.public.named_parameters(), *self.public.named_buffers()):
            if name in mine and mine[name].data_ptr() != tensor.data_ptr():
                tensor.data = tensor.data.to(mine[name].device)
                tensor.copy_(mine[name])
        return self.public.eval()

    def publish_graph(self) -> Graph | None:
        """The graph with the numbers of now, None where the caller gave a module."""
        if self.graph is None:
            return None
        mine = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        editor = GraphEditor(self.graph)
        for state in list(self.graph.states.values()):
            if state.kind != "constant" and state.data is not None and state.name in mine:
                trained = mine[state.name].detach()
                if trained.data_ptr() == state.data.tensor().data_ptr():
                    continue  # the module works on the graph's own numbers
                data = TensorData(trained.cpu().clone())
                editor.update_state(replace(state, data=data, digest=None))
        return self.graph

    def correct_annotations(self) -> tuple[str, ...]:
        """Make annotations of the published graph true where an optimizer with other masks has left them untrue.

        Returns what was changed, a line for each.
        """
        if self.graph is None:
            return ()
        corrected: list[str] = []
        editor = GraphEditor(self.graph)
        for state in list(self.graph.states.values()):
            old = state.type.sparsity
            if old is None or state.data is None or annotation_holds(state.data.tensor(), old):
                continue
            found = _annotation(state)
            editor.exchange_state(replace(state, value=Value(state.name, replace(state.type, sparsity=found))))
            corrected.append(f"%{state.name} is {found.text if found is not None else 'dense'} now, was {old.text}")
        if corrected:
            self.public = to_module(self.graph)  # modules have annotations too
        return tuple(corrected)


def shared_features(student: Graph, teacher: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of floating-point results of both graphs with equal shapes that match a pattern (`fnmatch`), in the student's order.

    Raises:
        UsageError: a pattern matches none.
    """
    from fnmatch import fnmatchcase

    def results(graph: Graph) -> dict[str, Value]:
        return {value.name: value for node in graph.nodes for value in node.results if value.type.dtype.is_float}

    theirs, outputs = results(teacher), set(student.outputs)
    both = {
        name: value
        for name, value in results(student).items()
        if name in theirs and theirs[name].type.shape == value.type.shape and value not in outputs
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in both):
            shown = ", ".join(list(both)[:5]) or "none"
            raise UsageError(
                f"features='{pattern}' is no value that student and teacher have in the same shape", fix=f"such values are {shown}, ..."
            )
    return tuple(name for name in both if any(fnmatchcase(name, pattern) for pattern in patterns))


def _annotation(state: State) -> Sparsity | None:
    """What is true of a parameter's zeros, by the rules of `annotate-sparsity`."""
    assert state.data is not None, "the caller looked at its numbers"
    numbers = state.data.tensor().detach()
    if float((numbers == 0).double().mean()) < _LEAST:
        return None
    return fitting_pattern(numbers, 0 if any(use.node.op in TRANSPOSED_CONVOLUTIONS for use in state.value.uses) else 1)


def _with_frozen_norms(graph: Graph) -> Graph:
    frozen = graph.clone()
    rewriter = Rewriter(frozen)
    for node in list(frozen.nodes):
        if node.op == "batch_norm" and node.attrs["mode"] == "follow" and node.operands[3] is not None:
            made = rewriter.create("batch_norm", node.operands, {**node.attrs, "mode": "eval"}, before=node)
            rewriter.replace(node, made.result)
    return frozen


def _with_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    if not names:
        return graph
    widened = graph.clone()
    GraphEditor(widened).set_outputs((*widened.outputs, *(widened.value(name) for name in names)))
    return widened
