"""Which layers a pass may look at: name patterns, and weights that belong to one layer alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph, Node, State
from graphopt.passes.shrink.names import layer_of
from graphopt.passes.shrink.products import added_bias, weight_index

if TYPE_CHECKING:
    import torch

__all__ = ["check_patterns", "constant_numbers", "excluded", "layer_name", "own_bias", "own_dense_weight", "own_weight"]


def layer_name(node: Node) -> str:
    """The module's name where the node reads a weight (`layer1.0.conv1`), else the node's own."""
    index = weight_index(node)
    state = node.graph.state_of(node.operands[index]) if node.graph is not None and len(node.operands) > index else None
    return layer_of(state.name) if state is not None else node.name


def excluded(name: str, only: Sequence[str], exclude: Sequence[str]) -> str | None:
    """Why a name is not among those that a pass works on; None where it is. Patterns are those of `fnmatch`."""
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by '{pattern}'"
    if only and not any(fnmatchcase(name, pattern) for pattern in only):
        return f"not in only={tuple(only)}"
    return None


def check_patterns(names: Iterable[str], **options: Sequence[str]) -> None:
    """Refuse patterns that mean nothing, and `only` and `exclude` that together leave nothing to work on.

    Raises:
        PassOptionError: with near names, or with the reason why one of the names is left out.
    """
    known = list(dict.fromkeys(names))
    for option, patterns in options.items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
                fix = f'near names: {", ".join(near)}; * stands for anything, as in "layer4.*"' if near else "the graph has none"
                raise PassOptionError(f"'{pattern}' in {option} is the name of nothing that this pass works on", fix=fix)
    reasons = [excluded(name, options.get("only", ()), options.get("exclude", ())) for name in known]
    if reasons and None not in reasons:
        raise PassOptionError(
            f"nothing is left to work on: all of {len(known)} are left out, for example {known[-1]}: {reasons[-1]}",
            fix="exclude less, or name others in only",
        )


def own_weight(graph: Graph, node: Node, index: int | None = None) -> State | str:
    """The parameter that a layer alone reads, its weight by default, or why it can't get other numbers or another shape."""
    operand = node.operands[weight_index(node) if index is None else index]
    state = graph.state_of(operand)
    if state is None:
        return f"{operand!r} is computed at run time, needs a parameter"
    if state.value.use_count > 1:
        return f"%{state.name} has {state.value.use_count} readers, needs 1"
    if state.tied:
        return f"%{state.name} is tied to '{state.tied[0]}'"
    if state.data is None:
        return f"%{state.name} has no numbers, the graph was read from text alone"
    return state


def own_dense_weight(graph: Graph, node: Node) -> State | str:
    """The same for passes whose result has no zeros: a weight that is annotated as sparse stays."""
    weight = own_weight(graph, node)
    if isinstance(weight, State) and weight.type.sparsity is not None:
        return f"it is sparse: %{weight.name} is {weight.type.sparsity.text}, its factors would be dense"
    return weight


def own_bias(graph: Graph, node: Node) -> State | None:
    """The bias that a layer alone reads, also where it is added behind a product with a weight; None without one."""
    place = (node, 2) if len(node.operands) > 2 and node.operands[2] is not None else added_bias(node)
    bias = None if place is None else own_weight(graph, *place)
    return bias if isinstance(bias, State) else None


def constant_numbers(tensor: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """For `Rewriter.replace_state`: these numbers, whatever the old ones were."""

    def give(_: torch.Tensor) -> torch.Tensor:
        return tensor

    return give
