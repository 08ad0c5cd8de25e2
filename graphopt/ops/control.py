"""Control flow: family `control`.

%y: f32[4] = cond(%pred, %x) regions {
  graph then(%a: f32[4]) { ... return %r }
  graph else(%a: f32[4]) { ... return %r }
}
"""

from __future__ import annotations

from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops.checks import require_dtype
from graphopt.ops.flops import zero
from graphopt.ops.registry import Call, OpDef, register

__all__: list[str] = []


def _cond(call: Call) -> tuple[TensorType, ...]:
    predicate = require_dtype(call, 0, DType.boolean)
    if predicate.elements != 1:
        raise call.fail(f"the predicate has {predicate.elements} elements, needs 1")
    operands = call.operands[1:]
    for region in call.regions:
        _check_inputs(call, region, operands)
    then, otherwise = (_outputs(call, region) for region in call.regions)
    if then != otherwise:
        raise call.fail(f"regions return different types: ({_text(then)}) and ({_text(otherwise)})")
    return then


def _check_inputs(call: Call, region: Graph, operands: tuple[object, ...]) -> None:
    if len(region.inputs) != len(operands):
        raise call.fail(f"region '{region.name}' takes {len(region.inputs)} inputs, gets {len(operands)}")
    for value, operand in zip(region.inputs, operands, strict=True):
        if isinstance(operand, TensorType) and value.type != operand:
            raise call.fail(f"region '{region.name}' takes %{value.name}: {value.type.text}, gets {operand.text}")


def _outputs(call: Call, region: Graph) -> tuple[TensorType, ...]:
    types: list[TensorType] = []
    for output in region.outputs:
        if not isinstance(output, Value):
            raise call.fail(f"region '{region.name}' returns the number {output}, needs tensors")
        types.append(TensorType(output.type.dtype, output.type.shape))
    return tuple(types)


def _text(types: tuple[TensorType, ...]) -> str:
    return ", ".join(found.text for found in types)


register(OpDef("cond", "control", ("pred", "*operands"), _cond, zero, "the first region where pred is true, else the second", regions=2))
