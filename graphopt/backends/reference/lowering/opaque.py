"""Ops that are not in the table: looked up in `torch.ops` and called with their stored arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._C import FunctionSchema
from torch._ops import OpOverload, OpOverloadPacket

from graphopt.backends.reference.emitter import Emitter, Site
from graphopt.errors import LoweringError
from graphopt.ir.attributes import Attribute, Ref

__all__ = ["lower_opaque", "overload_named", "schema_of"]

_FILE_ARGUMENTS = frozenset({"filename", "path"})
_REFUSED_NAMESPACES = frozenset({"c10d", "_c10d_functional", "c10d_functional", "debugprims", "prim", "profiler", "streams", "symm_mem"})
"""A graph may come from a stranger's file, so ops that reach outside the process are not run: those that take
the name of a file (`image.write_file`), and the namespaces for other processes and for debugging."""

_ENUMERATIONS = {
    "layout": {"strided": torch.strided},
    "memory_format": {
        "contiguous_format": torch.contiguous_format,
        "preserve_format": torch.preserve_format,
        "channels_last": torch.channels_last,
        "channels_last_3d": torch.channels_last_3d,
    },
}


def overload_named(name: str) -> OpOverload:
    """The torch op called `namespace.op.overload`. Nothing is imported and nothing else is looked up.

    Raises:
        LoweringError: no such op is registered in this process.
    """
    parts = name.split(".")
    fix = "import the package that registers the op, or replace the node by ops of the table"
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        raise LoweringError(f"'{name}' is neither in the op table nor the name of a torch op (namespace.op.overload)", fix=fix)
    space = getattr(torch.ops, parts[0], None)
    if type(space) is not _NAMESPACE:
        raise LoweringError(f"torch.ops has no namespace '{parts[0]}', op '{name}' can't be run", fix=fix)
    packet = getattr(space, parts[1], None)
    overload = getattr(packet, parts[2], None) if isinstance(packet, OpOverloadPacket) else None
    if not isinstance(overload, OpOverload):
        raise LoweringError(f"torch.ops has no op '{name}'", fix=fix)
    if parts[0] in _REFUSED_NAMESPACES or any(argument.name in _FILE_ARGUMENTS for argument in schema_of(overload).arguments):
        raise LoweringError(f"'{name}' is a torch op that reaches outside the process, a graph can't run it")
    return overload


def schema_of(overload: OpOverload) -> FunctionSchema:
    """Names, order and types of an op's arguments and results."""
    return overload._schema  # pyright: ignore[reportPrivateUsage]  # torch has no public way to it


def lower_opaque(emit: Emitter, site: Site) -> object:
    """Rebuild the arguments in the order of the op's schema and call it.

    Raises:
        LoweringError: the op is unknown, or the attributes are not arguments of its schema.
    """
    node = site.node
    overload = overload_named(node.op)
    schema = schema_of(overload)
    given = dict(node.attrs)
    unknown = sorted(set(given) - {argument.name for argument in schema.arguments})
    if unknown:
        raise LoweringError(f"{node.op} has no argument {', '.join(unknown)}; its schema is {schema}", where=repr(node))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    positional = True
    for argument in schema.arguments:
        if argument.name not in given:
            positional = False
            if argument.name == "device" and not any(handle is not None for handle in site.operands):
                kwargs["device"] = emit.device()
            continue
        value = _argument(emit, site, argument.name, given[argument.name])
        if argument.is_write and value is not None:
            value = emit.call(".clone", value)  # values of the IR never change
        if positional and not argument.kwarg_only:
            args.append(value)
        else:
            kwargs[argument.name] = value
    result = emit.call(overload, *args, **kwargs)
    return result if len(node.results) == 1 and _is_single(overload) else emit.unpack(result, len(node.results))


def _is_single(overload: OpOverload) -> bool:
    returns = schema_of(overload).returns
    return len(returns) == 1 and str(returns[0].type) != "List[Tensor]"


def _argument(emit: Emitter, site: Site, name: str, value: Attribute) -> Any:
    """An attribute with operands in place of `Ref`s; tuples become lists, as schemas want them."""
    match value:
        case Ref():
            if value.index >= len(site.operands):
                raise LoweringError(f"${value.index} refers to an operand that {site.node.op} does not have", where=repr(site.node))
            return site.operands[value.index]
        case tuple() | list():
            return [_argument(emit, site, name, item) for item in value]
        case Mapping():
            return {key: _argument(emit, site, name, item) for key, item in value.items()}
        case str() if name in _ENUMERATIONS:
            known = _ENUMERATIONS[name]
            if value not in known:
                raise LoweringError(f"{name} is '{value}', needs one of {', '.join(known)}", where=repr(site.node))
            return known[value]
        case _:
            return emit.value(value)


_NAMESPACE = type(torch.ops.aten)
