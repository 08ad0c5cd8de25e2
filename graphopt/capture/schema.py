"""What torch knows about an op: namespace, names of arguments, what it writes, its functional form.

    aten::add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1)
    ->  namespace "aten", base "add_", overload "Tensor", arguments self, other, alpha, writes self

The only file that reaches into torch's op objects, which have no public face.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch._ops import HigherOrderOperator, OpOverload

from graphopt.errors import UnsupportedModelError

__all__ = ["HigherOrderOperator", "OpOverload", "Schema", "check_writes", "functional_form", "schema_of", "storage_identity"]


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of one overload. `defaults` are by argument name, in the order of the schema."""

    namespace: str
    base: str
    overload: str
    defaults: Mapping[str, object]
    writes: tuple[str, ...]
    is_mutable: bool

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments in order."""
        return tuple(self.defaults)


@lru_cache(maxsize=4096)
def schema_of(target: OpOverload) -> Schema:
    """The schema of an op."""
    raw = target._schema
    namespace, base = raw.name.split("::")
    writes = tuple(a.name for a in raw.arguments if a.alias_info is not None and a.alias_info.is_write)
    defaults: dict[str, object] = {a.name: a.default_value for a in raw.arguments}
    return Schema(namespace, base, target._overloadname, MappingProxyType(defaults), writes, raw.is_mutable)


def functional_form(target: OpOverload) -> tuple[str, OpOverload | None]:
    """Base name, and overload where torch has one, of the op that returns what `target` writes into its first argument."""
    schema = schema_of(target)
    base = schema.base
    name = base
    if base.startswith("__i") and base.endswith("__"):
        name = "__" + base[3:]
    elif base.endswith("_") and not base.endswith("__"):
        name = base[:-1]
    packet = getattr(getattr(torch.ops, schema.namespace), name, None) if name != base else None
    overload = getattr(packet, schema.overload or "default", None) if packet is not None else None
    return name, overload if isinstance(overload, OpOverload) else None


def check_writes(target: OpOverload) -> None:
    """Refuse ops that write anything but their first argument.

    Raises:
        UnsupportedModelError: the message lists what the op writes.
    """
    schema = schema_of(target)
    if schema.writes != schema.arguments[:1]:
        raise UnsupportedModelError(
            f"{target} writes its arguments {list(schema.writes)}; only operations that write their first argument are supported",
            fix="use the form that returns new tensors",
        )


def storage_identity(tensor: torch.Tensor) -> int | None:
    """A number that two live tensors share exactly where they share memory; None for tensors without a storage."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None
