"""From a graph at given sizes to a program: a plan and its text, or the reason why the graph runs op by op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.backends.cuda.emit import emit
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.plan import Plan
from graphopt.backends.cuda.planner.builder import Builder
from graphopt.backends.cuda.planner.choice import Choice, Way, first_choice
from graphopt.backends.cuda.planner.makers import MAKERS
from graphopt.backends.cuda.states import Fill, Identity
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Graph, Node

__all__ = ["Program", "plan_graph"]


@dataclass(frozen=True)
class Program:
    """What runs for one set of sizes. `plan` is None where the graph can't be planned, for the reason in `whole`: then all
    of it runs in the reference lowering on the device. `fills` and `identities` are those of state buffers; `chosen` are the names of the
    ways that were taken, in order; `sparse_offers` has the values that a way could have made which skips zeros, and why which was taken."""

    plan: Plan | None
    source: str = ""
    fills: Mapping[str, Fill] = field(default_factory=dict[str, Fill])
    identities: Mapping[str, Identity] = field(default_factory=dict[str, Identity])
    foreign: tuple[tuple[str, str, str], ...] = ()
    chosen: tuple[str, ...] = ()
    sparse_offers: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: str = ""

    @property
    def text(self) -> str:
        """The plan for people."""
        return self.plan.text if self.plan is not None else f"all nodes run by torch, one by one: {self.whole}\n"


def plan_graph(graph: Graph, sizes: Mapping[str, int], options: CudaOptions, choose: Choice = first_choice) -> Program:
    """Plan and emit a graph where each symbol has a size.

    Raises:
        BackendError: the graph reads a value before it is computed.
    """
    shapes = Shapes(sizes)
    obstacle = next((reason for node in graph.nodes if (reason := _obstacle(node, shapes)) is not None), None)
    if obstacle is not None:
        return Program(None, whole=obstacle, foreign=tuple((node.name, node.op, obstacle) for node in graph.nodes))
    chosen: list[str] = []

    def noted(ways: Sequence[Way]) -> tuple[int, str]:
        number, reason = choose(ways)
        chosen.append(ways[number].name)
        return number, reason

    builder = Builder(graph, shapes, options, noted)
    plan = builder.build(MAKERS)
    foreign = tuple((node.name, node.op, reason) for node, reason in builder.reasons.items())
    fills = {name: fill for name, fill in builder.fills.items() if name in plan.buffers}
    identities = {name: builder.identities[name] for name in fills}
    return Program(plan, emit(plan), fills, identities, foreign, tuple(chosen), builder.sparse_offers)


def _obstacle(node: Node, shapes: Shapes) -> str | None:
    """Why a graph with this node can't be planned, or None."""
    if not node.results:
        return f"{node.op} has no result, and is run for what it does besides"
    if node.regions:
        return f"%{node.name} = {node.op} chooses what runs by a number that only the run knows"
    if not shapes.is_known(node):
        return f"%{node.name} = {node.op} has a size that only the run knows"
    return None
