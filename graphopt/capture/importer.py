"""torch.export's graph -> Graph: a walk over the fx nodes in order.

    %conv2d = aten.conv2d.default(%x, %p_weight, None, [1, 1], [1, 1])
    %relu_  = aten.relu_.default(%conv2d)
    ->
    %conv: f32[1,4,8,8] = conv2d(%x, %conv.weight, none) {stride=(1, 1), ...}
    %relu: f32[1,4,8,8] = relu(%conv)

Each call goes to the handler of its base name (`graphopt.capture.tables`), or becomes an opaque node. What
a handler emits has to have the type that was traced; where it has not, the nodes are taken back and the
call is carried opaque, so that a gap in a table costs optimisation but never a right answer.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

import graphopt.capture.tables  # noqa: F401  # fills the table of handlers
from graphopt.capture.context import HANDLERS, Context, NotExpressible, TorchCall
from graphopt.capture.dims import DimReader
from graphopt.capture.functionalise import Alias, AliasTable
from graphopt.capture.names import Place, place_of
from graphopt.capture.opaque import emit_opaque
from graphopt.capture.states import StateTable, dtype_of
from graphopt.errors import CaptureError, GraphoptWarning, TypeInferenceError, UnsupportedModelError
from graphopt.ir.dims import Dim, Expression, evaluate_dim, symbols_of
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import definition, is_canonical
from graphopt.ops.registry import Effect

__all__ = ["Bound", "Importer", "functional_overload", "remove_dead", "same_shape"]

log = logging.getLogger("graphopt.capture")

Bound = Alias | tuple["Alias | None", ...] | None
"""What an fx node stands for: a tensor, several, or nothing that the graph keeps."""

VANISHING = frozenset(
    {
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "_functional_assert_async",
        "_functional_assert_scalar",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
        "_functional_sym_constrain_range",
        "_functional_sym_constrain_range_for_size",
        "_record_function_enter",
        "_record_function_enter_new",
        "_record_function_exit",
    }
)
"""Checks and profiler marks, by base name: true of the traced example, and not part of the function."""


@dataclass
class Importer:
    """Translates one fx graph, and the sub-graphs that are inlined into it, onto the end of a graph.

    `modules` gives the user's sub-modules by path where a model is at hand.
    """

    context: Context
    states: StateTable
    dims: DimReader
    aliases: AliasTable
    modules: Mapping[str, nn.Module]
    bound: dict[fx.Node, Bound] = field(default_factory=dict[fx.Node, Bound])
    call_module: str = ""
    literals: dict[fx.Node, object] = field(default_factory=dict[fx.Node, object])
    autocast: bool = False

    def run(self, graph: fx.Graph, owner: nn.Module) -> tuple[object, ...]:
        """Translate all nodes; the placeholders have to be bound. Returns the arguments of `output`.

        Raises:
            UnsupportedModelError: the graph holds something that can't be captured.
        """
        for node in graph.nodes:
            if node.op == "call_function":
                self._call(node, owner)
            elif node.op == "output":
                return tuple(node.args[0]) if isinstance(node.args[0], list | tuple) else (node.args[0],)
            elif node.op not in ("placeholder", "get_attr"):
                raise UnsupportedModelError(f"the traced graph has a {node.op} node '{node.name}'", where=str(place_of(node).source))
        return ()

    def value(self, node: fx.Node) -> Value:
        """The current value of an fx node that is one tensor."""
        bound = self.bound.get(node)
        if not isinstance(bound, Alias):
            raise UnsupportedModelError(f"'{node.name}' is read as a tensor but is {node.meta.get('val')!r}", where=str(place_of(node).source))
        return self.aliases.read(self.context, bound)

    def define(self, node: fx.Node, fake: object, value: Value, owner: str | None = None) -> None:
        """Bind an fx node that is one tensor; `owner` names the input or state whose memory it is."""
        if not isinstance(fake, torch.Tensor):
            raise CaptureError(f"'{node.name}' is {fake!r}, needs a tensor")
        alias = self.aliases.define(fake, value)
        alias.storage.owner = owner
        self.bound[node] = alias

    def tensor_type(self, fake: torch.Tensor) -> TensorType:
        """Type of a traced tensor, with symbolic sizes."""
        if fake.layout is not torch.strided:
            raise UnsupportedModelError(f"the model computes a tensor with the layout {fake.layout}, needs torch.strided")
        return TensorType(dtype_of(fake.dtype), self.dims.shape(fake.shape))

    def argument(self, item: object) -> object:
        """An argument of an fx node: values for tensors, dimensions for symbolic integers, tuples for lists."""
        match item:
            case fx.Node():
                return self._node_argument(item)
            case torch.dtype():
                return dtype_of(item)
            case list() | tuple():
                return tuple(self.argument(part) for part in cast("Sequence[object]", item))
            case slice():
                raise UnsupportedModelError(f"a slice object {item!r} is an argument of a traced call")
            case _:
                return item

    def _node_argument(self, node: fx.Node) -> object:
        bound = self.bound.get(node)
        if isinstance(bound, Alias):
            return self.aliases.read(self.context, bound)
        if isinstance(bound, tuple):
            return tuple(None if part is None else self.aliases.read(self.context, part) for part in bound)
        if node in self.literals:
            return self.literals[node]
        fake: object = node.meta.get("val")
        if isinstance(fake, torch.SymInt):
            return self.dims.dim(fake)
        if isinstance(fake, bool | int | float) or fake is None:
            return fake
        raise UnsupportedModelError(
            f"a number that depends on tensors or sizes, {fake!r}, is used in a computation",
            where=str(place_of(node).source),
            fix="keep it a tensor (no .item(), float() or int()), or capture with fixed sizes",
        )

    def _call(self, node: fx.Node, owner: nn.Module) -> None:
        place = place_of(node, self.call_module)
        self.context.enter(place)
        target: object = node.target
        try:
            if target is operator.getitem and isinstance(node.args[0], fx.Node) and isinstance(self.bound.get(node.args[0]), tuple):
                self._getitem(node)
            elif isinstance(target, torch._ops.OpOverload):
                self._overload(node, target, place)
            elif isinstance(target, torch._ops.HigherOrderOperator):
                from graphopt.capture.control import import_higher_order  # control imports regions with this class

                import_higher_order(self, node, owner)
            elif not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
                return  # arithmetic on sizes: read off the traced value where it is used
            else:
                raise UnsupportedModelError(f"the traced graph calls {target}, which is no torch op")
        except CaptureError as error:
            error.where = error.where or str(place.source)
            raise

    def _getitem(self, node: fx.Node) -> None:
        whole = self.bound[cast("fx.Node", node.args[0])]
        index = node.args[1]
        part = whole[index] if isinstance(whole, tuple) and isinstance(index, int) else None
        self.bound[node] = part
        fake: object = node.meta.get("val")
        if part is not None and isinstance(fake, torch.Tensor):
            self.aliases.share(fake, part)

    def _overload(self, node: fx.Node, target: torch._ops.OpOverload, place: Place) -> None:
        namespace, base = target._schema.name.split("::")
        if base in VANISHING or namespace in ("profiler",) or (namespace == "aten" and base.startswith("sym_")):
            return
        fakes = list(_tensor_leaves(node.meta.get("val")))
        if not fakes:
            if not target._schema.is_mutable:
                return  # a number (item, sym_size): read off the traced value where it is used
        given = self._bind(target, node)
        written = _written(target, node)
        if written is not None:
            self._in_place(node, target, base, given, written, place)
            return
        call = self._torch_call(base, target, given, fakes, node, place)
        results = self._translate(call, namespace, target, given)
        self._finish(node, results, fakes, place)

    def _bind(self, target: torch._ops.OpOverload, node: fx.Node) -> dict[str, object]:
        """The arguments that were given, by schema name."""
        names = [argument.name for argument in target._schema.arguments]
        given: dict[str, object] = dict(zip(names, node.args, strict=False))
        given.update(node.kwargs)
        return {name: self.argument(item) for name, item in given.items()}

    def _torch_call(
        self, base: str, target: torch._ops.OpOverload, given: Mapping[str, object], fakes: Sequence[torch.Tensor], node: fx.Node, place: Place
    ) -> TorchCall:
        full: dict[str, object] = {}
        for argument in target._schema.arguments:
            full[argument.name] = given[argument.name] if argument.name in given else self.argument(argument.default_value)
        single = isinstance(node.meta.get("val"), torch.Tensor)
        used = {0} if single else {user.args[1] for user in node.users if user.target is operator.getitem}
        if not single and any(user.target is not operator.getitem for user in node.users):
            used = set(range(len(fakes)))
        module = self.modules.get(place.module)
        return TorchCall(
            base,
            target._overloadname,
            full,
            tuple(self.tensor_type(fake) for fake in fakes),
            frozenset(index for index in used if isinstance(index, int)),
            momentum_unset=isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None,
            scalars=self._scalars(full),
        )

    def _scalars(self, arguments: Mapping[str, object]) -> dict[Value, float | int | bool]:
        """Numbers of the operands that are constants of one element that tracing lifted."""
        found: dict[Value, float | int | bool] = {}
        for argument in arguments.values():
            if isinstance(argument, Value) and argument.type.shape == () and argument.producer is None:
                state = self.context.graph.state_of(argument)
                if state is not None and state.kind == "constant" and state.data is not None:
                    found[argument] = state.data.tensor().item()
        return found

    def _translate(
        self, call: TorchCall, namespace: str, target: torch._ops.OpOverload, given: Mapping[str, object]
    ) -> tuple[Operand, ...]:
        handler = HANDLERS.get(call.name) if namespace == "aten" else None
        if handler is None:
            return emit_opaque(self.context, target, given, call.types)
        mark = _last(self.context)
        for convert in (False, True) if self.autocast else (False,):
            try:
                made = handler(self.context, _with_casts(self.context, call) if convert else call)
                results = made if isinstance(made, tuple) else (made,)
                _check_types(results, call)
            except (NotExpressible, TypeInferenceError) as reason:
                log.info("%s is carried opaque: %s", target, reason)
                _take_back(self.context, mark)
            else:
                return results
        return emit_opaque(self.context, target, given, call.types)

    def _in_place(
        self, node: fx.Node, target: torch._ops.OpOverload, base: str, given: Mapping[str, object], written: fx.Node, place: Place
    ) -> None:
        """Translate an op that writes its first argument: the functional op, then the write."""
        alias = self.bound.get(written)
        fake = written.meta.get("val")
        if not isinstance(alias, Alias) or not isinstance(fake, torch.Tensor):
            raise UnsupportedModelError(f"{target} writes '{written.name}', which is no tensor of the graph")
        if _counts_batches(alias.value.name, base):
            self.bound[node] = alias  # to_module counts batches itself, as torch's batch norm does
            return
        functional = functional_overload(target)
        call = self._torch_call(functional[0], functional[1] or target, given, [fake], node, place)
        if functional[1] is None and call.name not in HANDLERS:
            raise UnsupportedModelError(
                f"{target} writes to its argument and torch has no functional form of it", fix="use an operation that returns a new tensor"
            )
        results = self._translate(call, target.namespace, functional[1] or target, given)
        new = results[0]
        if new is self.aliases.read(self.context, alias):
            self.bound[node] = alias
            return
        self._check_owner(alias, target)
        if not isinstance(new, Value):
            new = self.context.emit("full", shape=call.type.shape, value=cast("Any", new), dtype=call.type.dtype)
        self._rename(new, place)
        self.aliases.write(self.context, alias, new)
        self.bound[node] = alias

    def _check_owner(self, alias: Alias, target: torch._ops.OpOverload) -> None:
        """Writing to what outlives the call is refused for states and told for inputs."""
        owner = alias.storage.owner
        state = self.context.graph.states.get(owner) if owner is not None else None
        if state is not None:
            raise UnsupportedModelError(
                f"forward changes the {state.kind} '{owner}' in place ({target}); a graph does not change its states",
                fix="update it only in training (if self.training: ...), or return the new value as an output",
            )
        if owner is not None:
            place = self.context.place
            warnings.warn(
                f"forward changes its input '{owner}' in place ({target} at {place.source if place else 'unknown source'}); "
                "the graph returns the same outputs and leaves its inputs as they are",
                GraphoptWarning,
                stacklevel=2,
            )

    def _finish(self, node: fx.Node, results: tuple[Operand, ...], fakes: Sequence[torch.Tensor], place: Place) -> None:
        """Bind the results of a call to its fx node."""
        kept: list[Alias | None] = []
        for result, fake in zip(results, fakes, strict=False):
            if result is None:
                kept.append(None)
                continue
            value = result
            if not isinstance(value, Value):
                type_ = self.tensor_type(fake)
                value = self.context.emit("full", shape=type_.shape, value=value, dtype=type_.dtype)
            kept.append(self.aliases.define(fake, value))
        if isinstance(node.meta.get("val"), torch.Tensor):
            self.bound[node] = kept[0] if kept else None
            if kept and kept[0] is not None:
                self._rename(kept[0].value, place)
        else:
            self.bound[node] = tuple(kept)

    def _rename(self, value: Value, place: Place) -> None:
        """The result of a torch.nn leaf module is called by the module's path alone."""
        if not place.module or not place.is_torch_module or value.producer is None or not value.name.startswith(f"{place.module}."):
            return
        module = self.modules.get(place.module)
        leaf = module is None or next(module.children(), None) is None
        if leaf:
            self.context.editor.rename(value, self.context.graph.fresh_name(place.module))


def functional_overload(target: torch._ops.OpOverload) -> tuple[str, torch._ops.OpOverload | None]:
    """Base name and overload of the op that returns what `target` writes into its first argument."""
    base = target._schema.name.split("::")[1]
    name = base
    if base.startswith("__i") and base.endswith("__"):
        name = "__" + base[3:]
    elif base.endswith("_") and not base.endswith("__"):
        name = base[:-1]
    packet = getattr(getattr(torch.ops, target.namespace), name, None) if name != base else None
    overload = getattr(packet, target._overloadname, None) if packet is not None else None
    return name, overload if isinstance(overload, torch._ops.OpOverload) else None


def _written(target: torch._ops.OpOverload, node: fx.Node) -> fx.Node | None:
    """The argument that an op writes; None for functional ops."""
    if not target._schema.is_mutable:
        return None
    writes = [index for index, argument in enumerate(target._schema.arguments) if argument.alias_info is not None and argument.alias_info.is_write]
    first = node.args[0] if node.args else None
    if writes != [0] or not isinstance(first, fx.Node):
        names = [target._schema.arguments[index].name for index in writes]
        raise UnsupportedModelError(
            f"{target} writes its arguments {names}; only operations that write their first argument are supported",
            fix="use the form that returns new tensors",
        )
    return first


def _counts_batches(name: str, base: str) -> bool:
    return base == "add_" and name.rsplit(".", 1)[-1] == "num_batches_tracked"


def _tensor_leaves(fake: object) -> Iterator[torch.Tensor]:
    if isinstance(fake, torch.Tensor):
        yield fake
    elif isinstance(fake, list | tuple):
        for item in cast("Sequence[object]", fake):
            yield from _tensor_leaves(item)


def remove_dead(context: Context) -> None:
    """Erase pure canonical nodes that nobody reads: leftovers of views, and results that the model drops."""
    for node in context.graph.reversed_nodes:
        pure = is_canonical(node.op) and definition(node.op).effect is Effect.PURE and not node.regions
        if pure and not any(result.use_count for result in node.results):
            context.editor.erase(node)


def _last(context: Context) -> Node | None:
    return next(context.graph.reversed_nodes, None)


def _take_back(context: Context, mark: Node | None) -> None:
    """Erase what was emitted after `mark`, last first."""
    while (last := _last(context)) is not mark and last is not None:
        context.editor.erase(last)


def _check_types(results: Sequence[Operand], call: TorchCall) -> None:
    """Compare what a handler made with what was traced."""
    for index, (result, expected) in enumerate(zip(results, call.types, strict=False)):
        if index not in call.used or not isinstance(result, Value):
            if result is None and index in call.used:
                raise NotExpressible(f"{call.name}: result {index} is used and has no canonical form")
            continue
        if result.type.dtype is not expected.dtype or not same_shape(result.type.shape, expected.shape):
            raise NotExpressible(f"{call.name}: the canonical form has the type {result.type.text}, traced was {expected.text}")
    if len(results) < max(call.used, default=-1) + 1:
        raise NotExpressible(f"{call.name}: {len(results)} results, {max(call.used) + 1} are used")


def same_shape(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> bool:
    """True when two shapes are equal; expressions in different forms are compared at a few sizes."""
    return len(left) == len(right) and all(a == b or _same_dim(a, b) for a, b in zip(left, right, strict=True))


def _same_dim(left: Dim, right: Dim) -> bool:
    if not isinstance(left, Expression) or not isinstance(right, Expression):
        return False
    names = sorted(symbols_of(left) | symbols_of(right))
    for size in (1, 2, 5, 16, 97, 224, 1031):
        values = {name: size + 3 * position for position, name in enumerate(names)}
        if evaluate_dim(left, values) != evaluate_dim(right, values):
            return False
    return True


def _with_casts(context: Context, call: TorchCall) -> TorchCall:
    """Inside an autocast region: floating-point operands in the dtype that the traced result has.

    Autocast changes the dtype of operands without a trace in the graph; the traced result tells which.
    """
    wanted = call.types[0].dtype if call.types else None
    if wanted is None or not wanted.is_float or call.name in _EXPLICIT_DTYPE:
        return call
    low = (DType.bf16, DType.f16)

    def convert(argument: object) -> object:
        if isinstance(argument, Value) and argument.type.dtype.is_float and argument.type.dtype is not wanted:
            if wanted in low or argument.type.dtype in low:
                return context.cast(argument, wanted)
        if isinstance(argument, tuple):
            return tuple(convert(item) for item in cast("tuple[object, ...]", argument))
        return argument

    arguments = {name: convert(argument) for name, argument in call.arguments.items()}
    return TorchCall(call.name, call.overload, arguments, call.types, call.used, call.momentum_unset, call.scalars)


_EXPLICIT_DTYPE = frozenset({"to", "_to_copy", "type_as", "copy", "where"})
