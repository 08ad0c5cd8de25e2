"""What a pass may not change whatever its numbers: the signature of the graph, ties between parameters, and
for training-safe passes what trains.

Numbers can't see these: a copy of a tied weight computes the same until the first step of training. A lossy pass
that is training-safe makes a smaller model of the same kind: axes of parameters may lose positions, layers may go
with their parameters, and a layer may come back as several with parameters of their own. Whatever stays keeps its
name, kind, dtype, number of axes, trainability and ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.errors import PipelineOrderError
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.pipeline.passes import NumericClass, Pass, Stage

__all__ = ["broken_promise", "check_order"]

_TRAINING_MODES = ("follow", "train")


def check_order(passes: Sequence[Pass], *, stage: Stage | None = None) -> None:
    """Refuse a pipeline that can't work, before it runs.

    A training-safe pass may follow a deploy pass (cleaning up after folding), unless it works on ops that
    the deploy pass consumed. With `stage=TRAINING_SAFE` no deploy pass may be there at all.

    Raises:
        PipelineOrderError: with both passes and the ops.
    """
    consumed: dict[str, Pass] = {}
    for pass_ in passes:
        if stage is Stage.TRAINING_SAFE and pass_.stage is Stage.DEPLOY:
            raise PipelineOrderError(
                f"{pass_!r} is for deployment only and the result has to stay trainable", fix="leave it out, or allow deploy passes"
            )
        for op in sorted(pass_.needs):
            if op in consumed:
                raise PipelineOrderError(
                    f"{pass_!r} works on {op}, which {consumed[op]!r} has removed before it",
                    fix=f"put {pass_.name} before {consumed[op].name}",
                )
        if pass_.stage is Stage.DEPLOY:
            consumed.update(dict.fromkeys(pass_.consumes, pass_))


def broken_promise(before: Graph, after: Graph, pass_: Pass, replaced: Sequence[tuple[Value, Operand]]) -> tuple[str, str] | None:
    """What a pass broke without changing a number: (rule, the value or node concerned), or None."""
    return (
        _signature(before, after)
        or _ties(before, after)
        or (_training(before, after, replaced, lossy=pass_.numeric is NumericClass.LOSSY) if pass_.stage is Stage.TRAINING_SAFE else None)
    )


def _signature(before: Graph, after: Graph) -> tuple[str, str] | None:
    old, new = [(v.name, v.type) for v in before.inputs], [(v.name, v.type) for v in after.inputs]
    if old != new:
        return f"inputs stay as they are: were {_listed(before)}, are {_listed(after)}", _listed(after)
    if len(before.outputs) != len(after.outputs):
        return f"outputs stay as they are: were {len(before.outputs)}, are {len(after.outputs)}", "return"
    if before.structure != after.structure:
        return "inputs and outputs stay nested as they are", "return"
    for name, limits in before.symbols.items():
        if after.symbols.get(name) != limits:
            return f"dimension {name} stays in {limits}, is in {after.symbols.get(name)}", name
    return None


def _listed(graph: Graph) -> str:
    return ", ".join(repr(value) for value in graph.inputs) or "none"


def _ties(before: Graph, after: Graph) -> tuple[str, str] | None:
    """A tied name stays with its tensor, unless the tensor is gone as a whole."""
    owners = _owners(after)
    for state in before.states.values():
        survivor = owners.get(state.name)
        for alias in state.tied:
            owner = owners.get(alias)
            if (survivor or owner) and owner != survivor:
                held = f"%{owner}" if owner else "nothing"
                return f"tied parameters stay tied: '{alias}' belonged to %{state.name} and now belongs to {held}", f"%{state.name}"
    return None


def _owners(graph: Graph) -> dict[str, str]:
    owners: dict[str, str] = {}
    for state in graph.states.values():
        owners[state.name] = state.name
        owners.update(dict.fromkeys(state.tied, state.name))
    return owners


def _training(before: Graph, after: Graph, replaced: Sequence[tuple[Value, Operand]], *, lossy: bool) -> tuple[str, str] | None:
    """Parameters keep their names, types and trainability; what acts in train mode stays. Lossy passes may shrink them."""
    owners = _owners(after)
    for state in before.states.values():
        now = after.states.get(owners.get(state.name, ""))
        if now is None:
            if not lossy and state.kind == "param" and _reaches_outputs(state.value):
                return f"training-safe: parameter %{state.name} was in use and is gone", f"%{state.name}"
        elif (now.kind, now.type.dtype, now.trainable) != (state.kind, state.type.dtype, state.trainable):
            return f"training-safe: {_described(state)} became {_described(now)}", f"%{state.name}"
        elif now.type.shape != state.type.shape and not (lossy and _is_smaller(now, state)):
            only = ", a lossy pass may only make axes smaller" if lossy else ""
            return f"training-safe: {_described(state)} became {_described(now)}{only}", f"%{state.name}"
    known = _owners(before)
    for state in after.states.values():
        if not lossy and state.kind == "param" and state.trainable and state.name not in known:
            return f"training-safe: %{state.name} is a new parameter, which no state_dict of the model has", f"%{state.name}"
    for old, new in replaced:
        if lossy and isinstance(new, Value) and before.has_value(new.name):
            continue  # readers go back to an earlier value: a part was taken out, with the norms and dropout in it
        node = old.producer
        if node is not None and node.graph is not after and _acts_in_training(node.attrs) and not _is_twin(node, new):
            return f"training-safe: %{node.name} ({node.op}) acts in train mode and was removed", repr(node)
    return None


def _described(state: State) -> str:
    return f"{'' if state.trainable or state.kind != 'param' else 'frozen '}{state.kind} {state.value!r}"


def _is_smaller(now: State, before: State) -> bool:
    old, new = before.type.static_shape, now.type.static_shape
    return len(old) == len(new) and all(0 < small <= large for small, large in zip(new, old, strict=True))


def _acts_in_training(attrs: Mapping[str, object]) -> bool:
    """True for batch norms, dropout and the like that follow train mode; dropout of nothing does not count."""
    rate = attrs.get("p", attrs.get("dropout"))
    return attrs.get("mode") in _TRAINING_MODES and rate != 0.0


def _reaches_outputs(value: Value) -> bool:
    pending, seen = [value], {value}
    while pending:
        for user in pending.pop().users:
            if user.is_return:
                return True
            fresh = [result for result in user.results if result not in seen]
            pending.extend(fresh)
            seen.update(fresh)
    return False


def _is_twin(node: Node, new: Operand) -> bool:
    return isinstance(new, Value) and new.producer is not None and new.producer.op == node.op
