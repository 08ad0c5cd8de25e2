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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

from graphopt.capture.agreement import check_dtypes, check_types, with_casts
from graphopt.capture.context import Context, NotExpressible, TorchCall
from graphopt.capture.dims import DimReader
from graphopt.capture.functionalise import Alias, AliasTable
from graphopt.capture.names import Place, place_of
from graphopt.capture.opaque import emit_opaque
from graphopt.capture.schema import HigherOrderOperator, OpOverload, check_writes, functional_form, schema_of
from graphopt.capture.states import StateTable, dtype_of
from graphopt.capture.tables import HANDLERS
from graphopt.errors import CaptureError, IRError, UnsupportedModelError
from graphopt.ir.graph import Operand, Value
from graphopt.ir.types import TensorType
from graphopt.ops import DROPOUTS

__all__ = ["Bound", "Importer"]

log = logging.getLogger("graphopt.capture")

Bound = Alias | tuple["Alias | None", ...] | None
"""What an fx node stands for: a tensor, several, or nothing that the graph keeps."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Modules whose `momentum=None` means an average over all batches; the traced call has a number there."""

_SKIPPED_DROPOUTS = frozenset(("dropout", "feature_dropout", "alpha_dropout"))
"""In eval mode they return their operand itself; the fake tensors of torch before 2.14 do not say so."""

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

    `modules` gives the user's sub-modules by path where a model is at hand. `changed` collects inputs and
    parameters that the model writes in place, with where it does so.
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
    changed: dict[str, str] = field(default_factory=dict[str, str])

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
            raise UnsupportedModelError(
                f"'{node.name}' is read as a tensor but is {node.meta.get('val')!r}", where=str(place_of(node).source)
            )
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
            elif isinstance(target, OpOverload):
                self._overload(node, target, place)
            elif isinstance(target, HigherOrderOperator):
                from graphopt.capture.control import import_higher_order  # control imports regions with this class

                import_higher_order(self, node, owner)
            elif not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
                return  # arithmetic on sizes: read off the traced value where it is used
            else:
                raise UnsupportedModelError(
                    f"the traced graph calls {target}, which is no torch op",
                    fix="capture a sub-module without it, or write it with tensor operations",
                )
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

    def _overload(self, node: fx.Node, target: OpOverload, place: Place) -> None:
        schema = schema_of(target)
        if schema.base in VANISHING or schema.namespace == "profiler" or (schema.namespace == "aten" and schema.base.startswith("sym_")):
            return
        fakes = list(_tensor_leaves(node.meta.get("val")))
        if not fakes and not schema.is_mutable:
            return  # a number (item, sym_size): read off the traced value where it is used
        given = self._bind(target, node)
        if schema.is_mutable:
            self._in_place(node, target, given, place)
            return
        source = self.bound.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if schema.base in _SKIPPED_DROPOUTS and given.get("train") is False and isinstance(source, Alias):
            self.aliases.share(fakes[0], source)
        call = self._torch_call(schema.base, target, given, fakes, node, place)
        results = self._translate(call, target, given)
        self._finish(node, results, fakes, place)

    def _bind(self, target: OpOverload, node: fx.Node) -> dict[str, object]:
        """The arguments that were given, by schema name."""
        given: dict[str, object] = dict(zip(schema_of(target).arguments, node.args, strict=False))
        given.update(node.kwargs)
        return {name: self.argument(item) for name, item in given.items()}

    def _torch_call(
        self, base: str, target: OpOverload, given: Mapping[str, object], fakes: Sequence[torch.Tensor], node: fx.Node, place: Place
    ) -> TorchCall:
        schema = schema_of(target)
        full = {name: given[name] if name in given else self.argument(default) for name, default in schema.defaults.items()}
        single = isinstance(node.meta.get("val"), torch.Tensor)
        parts = [user.args[1] for user in node.users if user.target is operator.getitem and user.users]
        used = {0} if single else {index for index in parts if isinstance(index, int)}
        if any(user.target is not operator.getitem for user in node.users) and not single:
            used = set(range(len(fakes)))
        module = self.modules.get(place.module)
        return TorchCall(
            base,
            schema.overload,
            full,
            tuple(self.tensor_type(fake) for fake in fakes),
            frozenset(used),
            momentum_unset=isinstance(module, NORMS) and module.momentum is None,
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

    def _translate(self, call: TorchCall, target: OpOverload, given: Mapping[str, object]) -> tuple[Operand, ...]:
        handler = HANDLERS.get(call.name) if schema_of(target).namespace == "aten" else None
        if handler is None:
            return emit_opaque(self.context, target, given, call.types)
        mark = self.context.last_node
        for convert in (False, True) if self.autocast else (False,):
            try:
                made = handler(self.context, with_casts(self.context, call) if convert else call)
                results = made if isinstance(made, tuple) else (made,)
                check_types(results, call)
            except (NotExpressible, IRError) as reason:
                check_dtypes(call, self.autocast)
                log.info("%s is carried opaque: %s", target, reason)
                self.context.take_back(mark)
            else:
                return results
        return emit_opaque(self.context, target, given, call.types)

    def _in_place(self, node: fx.Node, target: OpOverload, given: Mapping[str, object], place: Place) -> None:
        """Translate an op that writes its first argument: the functional op, then the write."""
        check_writes(target)
        written = node.args[0] if node.args else None
        alias = self.bound.get(written) if isinstance(written, fx.Node) else None
        if not isinstance(written, fx.Node) or not isinstance(alias, Alias):
            raise UnsupportedModelError(f"{target} writes {written}, which is no tensor of the graph")
        if _counts_batches(alias.value.name, target):
            self.bound[node] = alias  # to_module counts batches itself, as torch's batch norm does
            return
        name, functional = functional_form(target)
        if functional is not None:  # the functional op may call its arguments otherwise: dropout_(self), dropout(input)
            renamed = dict(zip(schema_of(target).arguments, schema_of(functional).arguments, strict=False))
            given = {renamed[key]: argument for key, argument in given.items()}
        elif name not in HANDLERS:
            raise UnsupportedModelError(
                f"{target} writes to its argument and torch has no functional form of it", fix="use an operation that returns a new tensor"
            )
        call = self._torch_call(name, functional or target, given, [written.meta["val"]], node, place)
        results = self._translate(call, functional or target, given)
        new = results[0]
        if new is self.aliases.read(self.context, alias):
            self.bound[node] = alias
            return
        if not isinstance(new, Value) or new.producer is None or new.producer.op not in DROPOUTS:  # which changes nothing in eval mode
            self._check_owner(alias, target)
        if not isinstance(new, Value):
            new = self.context.emit("full", shape=call.type.shape, value=cast("Any", new), dtype=call.type.dtype)
        self._rename(new, place)
        self.aliases.write(self.context, alias, new)
        self.bound[node] = alias

    def _check_owner(self, alias: Alias, target: OpOverload) -> None:
        """Writing to what outlives the call: refused for buffers, noted for parameters and inputs."""
        owner = alias.storage.owner
        if owner is None:
            return
        state = self.context.graph.states.get(owner)
        if state is not None and state.kind != "param":
            raise UnsupportedModelError(
                f"forward changes the {state.kind} '{owner}' in place ({target}); a graph does not change its states",
                fix="update it only in training (if self.training: ...), or return the new value as an output",
            )
        self.changed.setdefault(owner, f"{target} at {self.context.place.source}" if self.context.place else str(target))

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
            only = [alias for alias in kept if alias is not None]
            if len(only) == 1:
                self._rename(only[0].value, place)

    def _rename(self, value: Value, place: Place) -> None:
        """The result of a torch.nn leaf module is called by the module's path alone."""
        if not place.module or not place.is_torch_module or value.producer is None or not value.name.startswith(f"{place.module}."):
            return
        module = self.modules.get(place.module)
        leaf = module is None or next(module.children(), None) is None
        if leaf:
            self.context.editor.rename(value, self.context.graph.fresh_name(place.module))


def _counts_batches(name: str, target: OpOverload) -> bool:
    return schema_of(target).base == "add_" and name.rsplit(".", 1)[-1] == "num_batches_tracked"


def _tensor_leaves(fake: object) -> Iterator[torch.Tensor]:
    if isinstance(fake, torch.Tensor):
        yield fake
    elif isinstance(fake, list | tuple):
        for item in cast("Sequence[object]", fake):
            yield from _tensor_leaves(item)
