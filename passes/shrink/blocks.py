"""Parts of a graph that can be taken out: one value goes in, one of the same type comes out, and nothing else does.

At a node's result the *others* are the values that are computed by then and still read later. Two results u and v with
the same others enclose a part: whatever is computed between them is read between them, except v. If v has the type of
u, its readers can read u instead, and the part goes. Masks, rotary tables and long skip connections that pass by on
the side are among the others of both, so they do not matter.

    residual block   v adds u to something computed from it: x + f(x); an activation or norm behind the addition goes
                     along where u went through the same (ResNet: relu, BERT: layer norm)
    layer            one convolution or linear layer, and the norm, activation and dropout behind it

One walk through the nodes; a sum of random numbers, one per value, stands for a set of others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ops import CONVOLUTIONS, DROPOUTS, NORMS, TRANSPOSED_CONVOLUTIONS, UNARY
from graphopt.passes.shrink.layers import layer_name

__all__ = ["Block", "find_layers", "find_residual_blocks", "merge_by_module"]

_LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {"linear"}
_TAIL = UNARY | NORMS | DROPOUTS | {"prelu"}
"""What stands behind a layer or an addition and belongs to it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part that can go: readers of `exit` can read `entry` instead.

    `module` and `line` (file, number) say where it stands in the model.
    """

    name: str
    module: str
    entry: Value
    exit: Value
    line: tuple[str | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True)
class _Waist:
    value: Value
    level: int
    """Stands for the set of other values that are alive."""


def _waists(graph: Graph) -> list[_Waist]:
    """Inputs and results in execution order, those that are computed from inputs and that somebody reads."""
    nodes = list(graph.nodes)
    last: dict[Value, int] = {}
    for index, node in enumerate(nodes):
        last.update((operand, index) for operand in node.operands if isinstance(operand, Value))
    last.update((output, len(nodes)) for output in graph.outputs if isinstance(output, Value))
    ending: dict[int, list[Value]] = {}
    for value, index in last.items():
        ending.setdefault(index, []).append(value)
    generator = random.Random(0)
    marks: dict[Value, int] = {value: generator.getrandbits(64) for value in graph.inputs if value in last}
    alive = sum(marks.values())
    found = [_Waist(value, alive - mark) for value, mark in marks.items()]
    for index, node in enumerate(nodes):
        if any(operand in marks for operand in node.operands if isinstance(operand, Value)):
            for result in node.results:
                if result in last:
                    marks[result] = generator.getrandbits(64)
                    alive += marks[result]
        alive -= sum(marks[value] for value in ending.get(index, ()) if value in marks)
        if len(node.results) == 1 and node.result in marks:
            found.append(_Waist(node.result, alive - marks[node.result]))
    return found


def _levels(graph: Graph) -> list[list[Value]]:
    """Values with the same others, in execution order."""
    levels: dict[int, list[Value]] = {}
    for waist in _waists(graph):
        levels.setdefault(waist.level, []).append(waist.value)
    return [values for values in levels.values() if len(values) > 1]


def find_residual_blocks(graph: Graph) -> tuple[list[Block], list[tuple[str, str]]]:
    """Residual blocks in execution order, and additions that end a part but no residual block, with the reason."""
    blocks: list[Block] = []
    skipped: list[tuple[str, str]] = []
    order = {result: index for index, node in enumerate(graph.nodes) for result in node.results}
    for values in _levels(graph):
        for position in range(1, len(values)):
            entry, end = values[position - 1], values[position]
            add = end.producer
            if add is None or add.op != "add":
                continue
            if not _reads(add, entry):
                if _joins_branches(add):
                    shown = f"%{entry.name}: {entry.type.text}"
                    skipped.append((add.name, f"what is added is not the block's input {shown}: the shortcut computes something"))
                continue
            if not _same_type(entry, end):
                skipped.append((add.name, f"turns {entry.type.text} into {end.type.text}, needs the same type"))
                continue
            if not any(_is_computed_from(operand, entry, order) for operand in add.operands if operand is not entry):
                continue  # x + bias, x + x, scores + mask
            exit_ = _with_tail(entry, end, values, position)
            blocks.append(Block(add.name, add.source.module, entry, exit_, (add.source.file, add.source.line)))
    return sorted(blocks, key=lambda block: order[block.exit]), skipped


def _joins_branches(add: Node) -> bool:
    """True when both operands are computed."""
    return sum(isinstance(operand, Value) and operand.producer is not None for operand in add.operands) == 2


def _is_computed_from(operand: Operand, entry: Value, order: Mapping[Value, int]) -> bool:
    """True when an operand depends on the entry; looks at nothing that runs before the entry."""
    pending, seen = [operand], set[Node]()
    while pending:
        value = pending.pop()
        if value is entry:
            return True
        if not isinstance(value, Value) or value.producer is None or order.get(value, 0) <= order.get(entry, -1):
            continue
        if value.producer not in seen:
            seen.add(value.producer)
            pending.extend(value.producer.operands)
    return False


def _with_tail(entry: Value, end: Value, values: list[Value], position: int) -> Value:
    """The addition, or what directly follows it where the entry came through an op of the same kind."""
    for following in values[position + 1 :]:
        node = following.producer
        if node is None or node.op not in _TAIL or not _reads(node, end) or end.use_count != 1 or not _same_type(entry, following):
            break
        end = following
        if entry.producer is not None and entry.producer.op == node.op:
            return end
    return values[position]


def merge_by_module(blocks: list[Block]) -> list[Block]:
    """Blocks that follow each other in one call of a module as one: attention and MLP of a transformer layer.

    An addition from a source line that was seen already belongs to the next call, as where layers share a module.
    """
    merged: list[Block] = []
    lines: set[tuple[str | None, int | None]] = set()
    for block in blocks:
        before = merged[-1] if merged else None
        together = before is not None and block.module and before.module == block.module and before.exit is block.entry
        if before is not None and together and block.line not in lines:
            merged[-1] = replace(before, exit=block.exit)
        else:
            merged.append(block)
            lines.clear()
        lines.add(block.line)
    taken: set[str] = set()
    for index, block in enumerate(merged):
        name = block.module if block.module and block.module not in taken else block.name
        taken.add(name)
        merged[index] = replace(block, name=name)
    return merged


def find_layers(graph: Graph) -> tuple[list[Block], list[tuple[str, str]]]:
    """Layers whose input and output types match, in execution order, and the others with the reason."""
    blocks: list[Block] = []
    skipped: list[tuple[str, str]] = []
    place = {value: (values, position) for values in _levels(graph) for position, value in enumerate(values)}
    for node in graph.nodes:
        if node.op not in _LAYERS:
            continue
        name = layer_name(node)
        entry = node.value(0)
        values, position = place.get(node.result, ((), 0))
        if position == 0 or values[position - 1] is not entry:
            skipped.append((name, f"its input %{entry.name} or something beside it is read further on"))
            continue
        end = node.result
        for following in values[position + 1 :]:
            tail = following.producer
            if tail is None or tail.op not in _TAIL or not _reads(tail, end):
                break
            end = following
        if not _same_type(entry, end):
            skipped.append((name, f"turns {entry.type.text} into {end.type.text}, needs the same type"))
        elif any(user.is_return for user in end.users):
            skipped.append((name, "its result is an output of the network"))
        else:
            blocks.append(Block(name, node.source.module, entry, end))
    return blocks, skipped


def _same_type(left: Value, right: Value) -> bool:
    return (left.type.dtype, left.type.shape) == (right.type.dtype, right.type.shape)


def _reads(node: Node, value: Value) -> bool:
    return any(operand is value for operand in node.operands)
