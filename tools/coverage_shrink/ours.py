"""One model: axis groups, half of each group's units cut, and what has to hold afterwards."""

from __future__ import annotations

import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from graphopt.analysis.axes import AxisGroup, AxisGroups, Removal, Role, axis_groups
from graphopt.backends.reference.interpreter import Interpreter, state_tensor
from graphopt.ir.graph import Graph
from graphopt.pipeline.poison import require_closed
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter
from tools import zoo
from tools.coverage_worker import relative_error

__all__ = ["STEPS", "SizeError", "examine", "general", "halves", "silence"]

STEPS = ("capture", "groups", "poison", "cut", "run", "smaller", "dead units")
"""What is tried of each model, in order."""

_TOLERANCE = 1e-9


class SizeError(AssertionError):
    """The shrunk model does not give what it should."""


def examine(name: str) -> dict[str, Any]:
    """Try the steps. One that fails ends the record with `failed` (the step) and `reason` (one line), except that a
    check that fails does not keep the others from being tried. Seconds are CPU time, of one thread."""
    warnings.filterwarnings("ignore")
    record: dict[str, Any] = {"name": name}
    state: dict[str, Any] = {}
    steps: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
        "build": _build,
        "capture": _capture,
        "groups": _groups,
        "poison": _poison,
        "cut": _cut,
        "run": _run,
        "smaller": _smaller,
        "dead units": _dead_units,
    }
    start = time.process_time()
    for step, action in steps.items():
        began = time.process_time()
        try:
            action(record, state)
            record.setdefault(step, "ok")
        except Exception as error:  # noqa: BLE001  # the point of the tool is to list whatever goes wrong
            record[step] = "failed"
            record.setdefault("failed", step)
            record.setdefault("reason", f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
            record.setdefault("traceback", traceback.format_exc()[-3000:])
            if step not in ("poison", "run", "smaller"):
                break
        finally:
            record[f"{step} seconds"] = round(time.process_time() - began, 3)
    record["seconds"] = round(time.process_time() - start, 2)
    return record


def halves(groups: AxisGroups, seed: int = 0) -> dict[AxisGroup, NDArray[numpy.bool_]]:
    """A random half of the units of each group that has two or more; of an odd number the smaller half."""
    random = numpy.random.default_rng(seed)
    removal: dict[AxisGroup, NDArray[numpy.bool_]] = {}
    for group in groups:
        gone = numpy.zeros(group.size, dtype=bool)
        gone[random.permutation(group.size)[: group.size // 2]] = True
        if gone.any():
            removal[group] = gone
    return removal


def _build(record: dict[str, Any], state: dict[str, Any]) -> None:
    model = zoo.build(record["name"])
    with torch.no_grad():
        state["expected"] = model.module(*model.args, **model.kwargs)
    state["model"] = model


def _capture(record: dict[str, Any], state: dict[str, Any]) -> None:
    import graphopt

    model = state["model"]
    graph = graphopt.capture(model.module, model.args, kwargs=model.kwargs)
    state["graph"] = graph
    record["nodes"] = graph.node_count
    record["parameters"] = _parameters(graph)


def _groups(record: dict[str, Any], state: dict[str, Any]) -> None:
    began = time.process_time()
    groups = axis_groups(state["graph"])
    record["analysis seconds"] = round(time.process_time() - began, 4)
    record["group count"] = len(groups)
    record["renormalised"] = sum(bool(group.renormalised) for group in groups)
    record["fixed"] = dict(Counter(general(entry.reason) for entry in groups.fixed))
    state["groups"] = groups
    if not halves(groups):
        raise SizeError(f"no group can be cut by half: {record['fixed']}")


def general(reason: str) -> str:
    """A reason without names and numbers, so that equal ones can be counted."""
    return re.sub(r"\d+", "N", re.sub(r"%[\w.@]+|'[^']*'", "%…", reason))


def _poison(record: dict[str, Any], state: dict[str, Any]) -> None:
    del record
    groups = state["groups"]
    require_closed(state["graph"], groups, halves(groups), _flat(state))


def _cut(record: dict[str, Any], state: dict[str, Any]) -> None:
    from graphopt import ops

    graph = state["graph"].clone()
    groups = axis_groups(graph)
    cut(Rewriter(graph), groups, halves(groups))
    ops.verify(graph)
    state["cut"] = graph
    record["parameters after"] = _parameters(graph)


def _run(record: dict[str, Any], state: dict[str, Any]) -> None:
    """In float32; outputs have the shapes of the dense model's, and are finite where those are all finite."""
    del record
    wanted = Interpreter(state["graph"]).run(*_flat(state))
    found = Interpreter(state["cut"]).run(*_flat(state))
    for before, after in zip(wanted, found, strict=True):
        if before.shape != after.shape:
            raise SizeError(f"an output is {tuple(after.shape)}, was {tuple(before.shape)}")
        if bool(torch.isfinite(before).all()) and not bool(torch.isfinite(after).all()):
            raise SizeError("an output is not finite")


def _smaller(record: dict[str, Any], state: dict[str, Any]) -> None:
    del state
    if record["parameters after"] >= record["parameters"]:
        raise SizeError(f"{record['parameters after']} parameters of {record['parameters']} are left")


def _dead_units(record: dict[str, Any], state: dict[str, Any]) -> None:
    """Zero all that writes or scales the units of one half, run, cut that half, run: equal in float64.

    Groups that a node averages or normalises over are left whole: there units of zeros have a say. Where a function
    that is not zero at zero (a sigmoid) lies between, the weights that read the units are zeroed too, and the record says so.
    """
    graph: Graph = state["graph"]
    groups = axis_groups(graph)
    removal = {group: gone for group, gone in halves(groups, seed=1).items() if not group.renormalised}
    record["dead groups"] = len(removal)
    if not removal:
        record["dead units"] = "none"
        return
    for roles in ((Role.WRITTEN, Role.SCALED), (Role.READ,)):
        silence(graph, removal, roles)
        before = Interpreter(graph, precise=True).run(*_flat(state))
        smaller = graph.clone()
        again = axis_groups(smaller)
        cut(Rewriter(smaller), again, {again[group.name]: gone for group, gone in removal.items()})
        error = relative_error(Interpreter(smaller, precise=True).run(*_flat(state)), before)
        record["dead error"] = error
        if error <= _TOLERANCE:
            record["dead by"] = "written" if Role.WRITTEN in roles else "written and read"
            return
        record.setdefault("dead error, read as they were", error)
    raise SizeError(f"without units that are zero the output differs by {error:.1e} of its largest value")


def silence(graph: Graph, removal: Removal, roles: tuple[Role, ...]) -> None:
    """Set the removed units' positions of all floating-point states with these roles to zero, in place."""
    with torch.no_grad():
        for group, gone in removal.items():
            for member in group.members:
                state = graph.state_of(member.value)
                if member.role not in roles or state is None:
                    continue
                tensor = state_tensor(state)
                if tensor.is_floating_point():
                    places = numpy.flatnonzero((member.units >= 0) & gone[member.units])
                    tensor.index_fill_(member.axis, torch.from_numpy(places), 0.0)


def _parameters(graph: Graph) -> int:
    """Numbers in parameters, tied ones once."""
    seen: dict[int, int] = {}
    for state in graph.states.values():
        if state.kind == "param":
            seen[id(state.value)] = int(numpy.prod(state.type.static_shape))
    return sum(seen.values())


def _flat(state: dict[str, Any]) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    model = state["model"]
    return [leaf for leaf in pytree.tree_leaves((model.args, model.kwargs)) if isinstance(leaf, torch.Tensor)]
