"""Parts of a graph that can be taken out: one value goes in, one of the same type comes out, and nothing else does.

    residual block   v adds u to something computed from it, x + f(x), and nothing of f is read elsewhere; masks and
                     rotary tables that f reads, or computes beside, do not matter. An activation or norm behind the
                     addition goes along where u went through the same (ResNet: relu, BERT: layer norm)
    layer            one convolution or linear layer, and the norm, activation and dropout behind it

Readers of v can read u instead where both have the same type, and then the part goes.

For layers: at a node's result the *others* are the values that are computed by then and still read later. Two results u
and v with the same others enclose a part: whatever is computed between them is read between them, except v. One walk
through the nodes finds them all; a sum of random numbers, one per value, stands for a set of others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops import ATTENTIONS, CONVOLUTIONS, DROPOUTS, MATMULS, NORMS, RECURRENT, TRANSPOSED_CONVOLUTIONS, UNARY
from graphopt.passes.shrink.layers import layer_name

__all__ = ["Block", "find_layers", "find_residual_blocks", "merge_by_module"]

_LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {"linear"}
_TAIL = UNARY | NORMS | DROPOUTS | {"prelu"}
"""What stands behind a layer or an addition and belongs to it."""
_WORK = _LAYERS | MATMULS | ATTENTIONS | RECURRENT
"""What a residual block has at least one of."""
_LARGEST = 1000
"""Most nodes in a block; what is longer is the skip connection of a whole network."""


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
    """Residual blocks in execution order, and additions that end something like one, with the reason why they are none."""
    blocks: list[Block] = []
    skipped: list[tuple[str, str]] = []
    order = dict.fromkeys(graph.inputs, -1)
    order.update((result, index) for index, node in enumerate(graph.nodes) for result in node.results)
    joints = _joints(graph)
    for add in graph.nodes:
        operands = [operand for operand in add.operands if isinstance(operand, Value) and operand in order]
        if add.op != "add" or len(operands) != 2 or operands[0] is operands[1]:
            continue
        entry, branch = sorted(operands, key=lambda value: order[value])
        found = _inside(entry, branch, add, order) if _same_type(entry, add.result) else False
        if isinstance(found, str):
            skipped.append((add.name, found))
        elif found:
            end = _with_tail(entry, add.result)
            blocks.append(Block(add.name, add.source.module, entry, end, (add.source.file, add.source.line)))
        elif add in joints:
            shown = f"%{joints[add].name}: {joints[add].type.text}"
            skipped.append((add.name, f"what is added is not the block's input {shown}: the shortcut computes something"))
    return blocks, skipped


def _joints(graph: Graph) -> dict[Node, Value]:
    """Additions that end a part of the graph, and what goes into the part."""
    found: dict[Node, Value] = {}
    for values in _levels(graph):
        for entry, end in pairwise(values):
            if end.producer is not None and end.producer.op == "add" and not _reads(end.producer, entry):
                found[end.producer] = entry
    return found


def _inside(entry: Value, branch: Value, add: Node, order: Mapping[Value, int]) -> bool | str:
    """True when layers compute `branch` from `entry` and nothing on the way is read by anything but `add`; False when
    they don't, as with biases, masks and written-out activations; a reason where something is read elsewhere or the way
    is too long for a block."""
    start = order[entry]
    nodes: dict[Node, int] = {}
    pending: list[Value] = [branch]
    while pending:
        value = pending.pop()
        node = value.producer
        if node is None or order.get(value, -1) <= start or node in nodes:
            continue
        nodes[node] = order[value]
        if len(nodes) > _LARGEST:
            return f"more than {_LARGEST} nodes lie between %{entry.name} and the addition, that is no block"
        pending.extend(operand for operand in node.operands if isinstance(operand, Value))
    computed = {entry}
    inside: list[Node] = []
    for node in sorted(nodes, key=lambda node: nodes[node]):
        if any(isinstance(operand, Value) and operand in computed for operand in node.operands):
            computed.update(node.results)
            inside.append(node)
    if branch not in computed or not any(node.op in _WORK for node in inside):
        return False
    members = {*inside, add}
    for node in inside:
        for result in node.results:
            outside = next((user for user in result.users if user not in members), None)
            if outside is not None:
                reader = "the network's output" if outside.is_return else f"%{outside.name}"
                return f"%{result.name} inside the block is read by {reader} outside"
    return True


def _with_tail(entry: Value, end: Value) -> Value:
    """The addition, or what directly follows it where the entry came through an op of the same kind."""
    source = entry.producer
    while source is not None and source.op in DROPOUTS:
        source = source.value(0).producer
    last = end
    while last.use_count == 1 and not last.users[0].is_return:
        node = last.users[0]
        if node.op not in _TAIL or len(node.results) != 1 or node.operands[0] is not last or not _same_type(entry, node.result):
            break
        last = node.result
        if source is not None and source.op == node.op:
            return last
    return end


def merge_by_module(blocks: list[Block]) -> list[Block]:
    """Blocks that follow each other in one call of a module as one: attention and MLP of a transformer layer.

    The module is the innermost one with a number: `encoder.layer.0` for the additions of `encoder.layer.0.output` and
    `encoder.layer.0.attention.output`. An addition from a source line that was seen already belongs to the next call,
    as where layers share a module.
    """
    merged: list[Block] = []
    lines: set[tuple[str | None, int | None]] = set()
    for block in (replace(block, module=_numbered(block.module)) for block in blocks):
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


def _numbered(module: str) -> str:
    parts = module.split(".")
    last = max((index for index, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
    return ".".join(parts[: last + 1])


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
