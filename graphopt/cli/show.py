"""`graphopt show`: the IR of a model or saved graph, whole or in part, its cost, its axis groups or zeros."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Any, Literal

import typer

from graphopt.cli.models import load_subject, parse_dynamic, parse_shapes
from graphopt.cli.options import DTypeOption, Dynamic, Json, Model, Passes, Shapes, Weights, check_dtype
from graphopt.cli.output import print_json, print_text, step, steps
from graphopt.cli.passing import optimized
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node

__all__ = ["show"]


def show(
    model: Model,
    passes: Passes = None,
    op: Annotated[list[str] | None, typer.Option("--op", help="Only nodes of this op (wildcards allowed); may be repeated.")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="Only nodes whose name matches; may be repeated.")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="FLOPs, bytes and parameters of each node, and totals.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="Which channels, neurons and heads have to be cut together, and why.")] = False,
    inside_heads: Annotated[bool, typer.Option("--inside-heads", help="With --groups: features inside heads, not whole heads.")] = False,
    sparsity: Annotated[
        bool, typer.Option("--sparsity", help="Zeros of each parameter and their pattern; with --name, pictures of those that match.")
    ] = False,
    ops: Annotated[bool, typer.Option("--ops", help="How often each op occurs.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="Module path and source line of each node.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="With --target: the steps, layouts and memory of the executable.")] = False,
    target: Annotated[str | None, typer.Option("--target", "-t", help="With --plan: the backend, cpu or cuda.", show_default=False)] = None,
    dtype: DTypeOption = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="With --groups: parameters and layers that keep all axes.")] = None,
    shape: Shapes = None,
    dynamic: Dynamic = None,
    weights: Weights = None,
    json_: Json = False,
) -> None:
    """Print the IR of a model or of a saved graph."""
    import graphopt

    if plan != (target is not None):
        raise UsageError("a plan is that of a target", fix="give both: --plan --target cuda")
    check_dtype(dtype, target)
    with steps(quiet=json_) as progress:
        with step(progress, f"loading {model}"):
            subject = load_subject(model, weights=weights)
        with step(progress, "capturing"):
            graph = subject.captured(shapes=parse_shapes(shape), dynamic=parse_dynamic(dynamic))
        if passes:
            with step(progress, "running passes"):
                graph = optimized(graph, passes)
    if target is not None:
        _show_plan(graph, target, dtype, json_)
        return
    if sparsity:
        from graphopt.cli.sparsity import show_sparsity

        show_sparsity(graph, name, json_)
        return
    if groups:
        _show_groups(graph, name, exclude, "inside" if inside_heads else "whole", json_)
        return
    chosen = [node for node in graph.nodes if _matches(node, op, name)]
    if (op or name) and not chosen:
        known = ", ".join(sorted({node.op for node in graph.nodes}))
        raise UsageError(f"no node of {graph.name} matches", fix=f"its ops are {known}")
    if cost:
        _show_cost(graph, chosen, json_)
    elif ops:
        _show_ops(chosen, json_)
    elif op or name:
        _show_nodes(chosen, sources, json_)
    elif json_:
        print_json(
            {"name": graph.name, "nodes": graph.node_count, "states": len(graph.states), "text": graphopt.show(graph, sources=sources)}
        )
    else:
        print_text(graphopt.show(graph, sources=sources))


def _show_plan(graph: Graph, target: str, dtype: str | None, json_: bool) -> None:
    """What a backend would run, without measuring: a plan needs neither a compiler nor a GPU."""
    if graph.symbols:
        raise UsageError(f"{graph.name} has sizes that are symbols, and a plan is for one set of sizes", fix="leave out --dynamic")
    match target:
        case "cpu":
            from graphopt.backends.cpu.lowering import plan_graph as plan_for_cpu

            text = plan_for_cpu(graph).text
        case "cuda":
            from graphopt.backends.cuda.lowering import plan_graph as plan_for_cuda
            from graphopt.backends.cuda.options import CudaOptions

            text = plan_for_cuda(graph, {}, CudaOptions.parse({"dtype": dtype} if dtype else {})).text
        case _:
            raise UsageError(f"{target} has no plan to show", fix="give --target cpu or --target cuda")
    if json_:
        print_json({"target": target, "plan": text})
    else:
        print_text(text.rstrip())


def _matches(node: Node, ops: list[str] | None, names: list[str] | None) -> bool:
    return (not ops or any(fnmatch.fnmatchcase(node.op, pattern) for pattern in ops)) and (
        not names or any(fnmatch.fnmatchcase(node.name, pattern) for pattern in names)
    )


def _show_nodes(nodes: list[Node], sources: bool, json_: bool) -> None:
    from graphopt.ir.printer import node_text

    if json_:
        print_json([{"name": n.name, "op": n.op, "text": node_text(n, sources=sources)} for n in nodes])
        return
    for node in nodes:
        print_text(node_text(node, sources=sources))


def _show_ops(nodes: list[Node], json_: bool) -> None:
    from collections import Counter

    from graphopt.ops import is_canonical

    counts = Counter(node.op for node in nodes)
    if json_:
        print_json(dict(counts.most_common()))
        return
    for op, count in counts.most_common():
        print_text(f"{count:6d}  {op}{'' if is_canonical(op) else '  (opaque)'}")


def _show_groups(graph: Graph, names: list[str] | None, exclude: list[str] | None, heads: Literal["whole", "inside"], json_: bool) -> None:
    from graphopt.analysis.axes import axis_groups, show_groups
    from graphopt.analysis.axes.text import positions_text

    found = axis_groups(graph, exclude=exclude or (), heads=heads)
    chosen = [group for group in found if not names or any(fnmatch.fnmatchcase(group.name, pattern) for pattern in names)]
    if names and not chosen:
        known = ", ".join(group.name for group in found)
        raise UsageError(f"no axis group of {graph.name} matches", fix=f"its groups are {known or 'none'}")
    if not json_:
        print_text(show_groups(graph, found, names=[group.name for group in chosen] if names else None).rstrip())
        return
    document: dict[str, Any] = {"groups": []}
    for group in chosen:
        members = [
            {
                "value": member.value.name,
                "axis": member.axis,
                "role": member.role.value,
                "positions": positions_text(member, group.size),
                "reason": member.reason,
            }
            for member in group.members
        ]
        entry = {"name": group.name, "kind": group.kind, "size": group.size, "renormalised": group.renormalised, "members": members}
        document["groups"].append(entry)
    if not names:
        document["fixed"] = [{"value": fixed.value.name, "axis": fixed.axis, "reason": fixed.reason} for fixed in found.fixed]
    print_json(document)


def _show_cost(graph: Graph, nodes: list[Node], json_: bool) -> None:
    from graphopt.analysis.cost import cost
    from graphopt.analysis.memory import peak_memory

    result = cost(graph)
    names = {node.name for node in nodes}
    rows = [row for row in result.nodes if row.name in names]
    if json_:
        document: dict[str, Any] = {"nodes": [row.to_json() for row in rows], "total": result.total.to_json()}
        print_json(document | {"peak_memory": peak_memory(graph).to_json()})
        return
    print_text(result.table(names))
    print_text(str(peak_memory(graph)))
