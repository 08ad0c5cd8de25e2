"""Higher-order ops: calls that carry a sub-graph.

    wrap_with_set_grad_enabled, wrap_with_autocast   ->  the sub-graph in place
    cond(pred, then, else, operands)                 ->  cond(%pred, ...) with two regions

Inside an autocast region torch changes the dtype of operands without a trace in the graph; the importer
makes these casts explicit (`Importer.autocast`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import fx, nn

from graphopt.capture.context import Context
from graphopt.capture.functionalise import Alias, AliasTable
from graphopt.capture.importer import Importer
from graphopt.capture.names import place_of
from graphopt.capture.states import StateTable
from graphopt.errors import UnsupportedModelError
from graphopt.ir.graph import Graph, Operand, Value

__all__ = ["import_higher_order"]

FIRST_OPERAND = {"wrap_with_set_grad_enabled": 2, "wrap_with_autocast": 5}
"""Position of the first tensor operand of the ops that only wrap; the sub-graph is just before it."""


def import_higher_order(importer: Importer, node: fx.Node, owner: nn.Module) -> None:
    """Translate one higher-order call.

    Raises:
        UnsupportedModelError: an op other than the wrappers and `cond`.
    """
    name = str(getattr(node.target, "__name__", node.target))
    if name in FIRST_OPERAND:
        first = FIRST_OPERAND[name]
        enabled: bool = name == "wrap_with_autocast" and node.args[0:3:2] == ("cpu", True)
        _inline(importer, node, _body(node.args[first - 1], owner), node.args[first:], enabled)
    elif name == "cond":
        _cond(importer, node, owner)
    else:
        raise UnsupportedModelError(
            f"the model uses the higher-order op '{name}', which has no form in the graph; torch.cond, autocast and no_grad have",
            fix="capture a sub-module without it, or write it with tensor operations",
        )


def _body(argument: object, owner: nn.Module) -> fx.GraphModule:
    body = owner.get_submodule(str(argument.target)) if isinstance(argument, fx.Node) and argument.op == "get_attr" else None
    if not isinstance(body, fx.GraphModule):
        raise UnsupportedModelError(f"a higher-order op has the sub-graph {argument!r}, which is not in the exported program")
    return body


def _inline(importer: Importer, node: fx.Node, body: fx.GraphModule, operands: Sequence[object], autocast: bool) -> None:
    inner = Importer(
        importer.context,
        importer.states,
        importer.dims,
        importer.aliases,
        importer.modules,
        call_module=place_of(node, importer.call_module).module,
        autocast=importer.autocast or autocast,
        changed=importer.changed,
    )
    placeholders = [inside for inside in body.graph.nodes if inside.op == "placeholder"]
    for placeholder, operand in zip(placeholders, operands, strict=True):
        bound = importer.bound.get(operand) if isinstance(operand, fx.Node) else None
        if isinstance(bound, Alias):
            inner.bound[placeholder] = importer.aliases.share(placeholder.meta.get("val"), bound)
    outputs = inner.run(body.graph, body)
    results = [inner.bound.get(output) if isinstance(output, fx.Node) else None for output in outputs]
    importer.bound[node] = tuple(result if isinstance(result, Alias) else None for result in results)


def _cond(importer: Importer, node: fx.Node, owner: nn.Module) -> None:
    predicate, then_body, else_body, operands = cast("tuple[object, object, object, Sequence[object]]", node.args)
    condition = importer.argument(predicate)
    bodies = _body(then_body, owner), _body(else_body, owner)
    if isinstance(condition, bool):
        _inline(importer, node, bodies[0] if condition else bodies[1], operands, False)
        return
    if not isinstance(condition, Value):
        raise UnsupportedModelError(f"torch.cond decides on {condition!r}, needs a tensor", fix="capture with fixed sizes")
    regions = tuple(_region(importer, body, name) for body, name in zip(bodies, ("then", "else"), strict=True))
    values = tuple(value for value in map(importer.argument, operands) if isinstance(value, Value))
    fakes = list(node.meta["val"])
    results = importer.context.append(
        "cond", (condition, *values), {}, tuple(importer.tensor_type(fake) for fake in fakes), regions=regions
    )
    importer.bound[node] = tuple(importer.aliases.define(fake, result) for fake, result in zip(fakes, results, strict=True))


def _region(importer: Importer, body: fx.GraphModule, name: str) -> Graph:
    """A branch as a graph of its own; tensors come in as inputs, symbolic sizes by their names."""
    context = Context(Graph(name))
    inner = Importer(
        context,
        StateTable(context.editor),
        importer.dims.for_region(context.editor),
        AliasTable(),
        importer.modules,
        autocast=importer.autocast,
    )
    for placeholder in body.graph.nodes:
        fake = placeholder.meta.get("val")
        if placeholder.op == "placeholder" and hasattr(fake, "untyped_storage"):
            hint = context.graph.fresh_name(placeholder.name)
            inner.define(placeholder, fake, context.editor.add_input(hint, inner.tensor_type(fake)))
    outputs: list[Operand] = []
    for output in inner.run(body.graph, body):
        if not isinstance(output, fx.Node):
            raise UnsupportedModelError(f"a branch of torch.cond returns {output!r}, needs tensors")
        outputs.append(inner.value(output))
    context.editor.set_outputs(outputs)
    context.remove_dead()
    return context.graph
