"""Ops that are not in the op table, carried as they are.

    torch.histc(x, bins=4)   ->   %h: f32[4] = aten.histc.default(%x) {bins=4, max=0, min=0, self=$0}

Operands are the tensor arguments in order; attributes are the arguments that were given, by their names in
the op's schema, with `$i` where operand i goes. Arguments that say where or how memory is laid out
(device, layout, pin_memory, memory_format) are left out: the IR knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.capture.context import Context
from graphopt.capture.schema import OpOverload
from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import Attribute, Ref
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Value
from graphopt.ir.types import DType, TensorType

__all__ = ["PLACEMENT", "emit_opaque"]

PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})
"""Arguments that only say where or how memory is laid out."""


def emit_opaque(context: Context, target: OpOverload, arguments: Mapping[str, object], types: Sequence[TensorType]) -> tuple[Value, ...]:
    """Append a node for a torch op with the arguments that were given.

    Raises:
        UnsupportedModelError: an argument is of a kind that the IR can't hold (a generator, a script object).
    """
    operands: list[Value] = []
    name = str(target)
    attrs = {
        key: _attribute(argument, operands, f"argument '{key}' of {name}") for key, argument in arguments.items() if key not in PLACEMENT
    }
    return context.append(name, operands, attrs, types)


def _attribute(argument: object, operands: list[Value], what: str) -> Attribute:
    match argument:
        case Value():
            operands.append(argument)
            return Ref(len(operands) - 1)
        case None | bool() | int() | float() | str() | DType() | Expression():
            return argument
        case tuple():
            return tuple(_attribute(item, operands, what) for item in argument)  # pyright: ignore[reportUnknownVariableType]
        case _:
            raise UnsupportedModelError(f"{what} is {argument!r}, which a graph can't hold", fix="leave that argument at its default")
