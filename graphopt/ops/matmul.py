"""Matrix products: family `matmul`.

%y: f32[batch,1000] = linear(%x, %fc.weight, %fc.bias)          weight is [out, in]
%s: f32[batch,8,16,16] = matmul(%q, %k)
"""

from __future__ import annotations

from graphopt.ir.dims import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ops.axes.matmul import einsum_axes, linear_axes, matmul_axes
from graphopt.ops.broadcasting import broadcast_shapes
from graphopt.ops.checks import known_different, require_same_dtype, require_shape
from graphopt.ops.einsum import EinsumEquation, parse_equation
from graphopt.ops.kinds import TEXT
from graphopt.ops.registry import Call, OpDef, register

__all__: list[str] = []


def _linear(call: Call) -> tuple[TensorType, ...]:
    found, weight = call.type(0), call.type(1)
    require_same_dtype(call)
    if weight.rank != 2 or found.rank == 0:
        raise call.fail(f"weight has {weight.rank} axes and x has {found.rank}, needs 2 (out, in) and at least 1")
    if known_different(found.shape[-1], weight.shape[1]):
        raise call.fail(f"x has {found.shape[-1]} features on axis {found.rank - 1}, the weight needs {weight.shape[1]}")
    require_shape(call, 2, (weight.shape[0],), "one number per output feature")
    return (found.with_shape((*found.shape[:-1], weight.shape[0])),)


def _matmul(call: Call) -> tuple[TensorType, ...]:
    left, right = call.type(0), call.type(1)
    require_same_dtype(call)
    if not left.rank or not right.rank:
        raise call.fail("both operands need at least 1 axis", fix="use mul for numbers")
    inner = right.shape[-2] if right.rank > 1 else right.shape[0]
    if known_different(left.shape[-1], inner):
        raise call.fail(f"a has {left.shape[-1]} on axis {left.rank - 1}, b has {inner} on axis {max(right.rank - 2, 0)}, needs the same")
    batch = broadcast_shapes(call, [left.shape[:-2], right.shape[:-2]])
    rows = left.shape[-2:-1]
    columns = right.shape[-1:] if right.rank > 1 else ()
    return (left.with_shape((*batch, *rows, *columns)),)


def _product_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """Each result element is a sum of products over the last axis of the first operand."""
    return 2 * results[0].elements * call.type(0).shape[-1]


def equation_of(call: Call) -> tuple[EinsumEquation, dict[str, Dim]]:
    """The parsed equation and the size of each label; a size of 1 gives way, as in broadcasting.

    Raises:
        TypeInferenceError: the equation is malformed or does not fit the operands.
    """
    types = call.tensor_types()
    equation = parse_equation(call, call.text("equation"), tuple(found.rank for found in types))
    sizes: dict[str, Dim] = {}
    for position, (labels, found) in enumerate(zip(equation.inputs, types, strict=True)):
        for axis, (label, dim) in enumerate(zip(labels, found.shape, strict=True)):
            current = sizes.setdefault(label, dim)
            if current == 1:
                sizes[label] = dim
            elif dim != 1 and known_different(dim, current):
                raise call.fail(f"label '{label}' has the size {current}, but {dim} on axis {axis} of operand {position}")
    return equation, sizes


def _einsum(call: Call) -> tuple[TensorType, ...]:
    equation, sizes = equation_of(call)
    return (TensorType(require_same_dtype(call), tuple(sizes[label] for label in equation.output)),)


def _einsum_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """All labels in one loop: n operands cost n - 1 products and an addition each time."""
    _, sizes = equation_of(call)
    return len(call.operands) * product(tuple(sizes.values()))


register(
    OpDef(
        "linear",
        "matmul",
        ("x", "weight", "bias?"),
        _linear,
        _product_flops,
        "x @ weight.T + bias; weight is [out, in]",
        axes=linear_axes,
    )
)
register(
    OpDef(
        "matmul",
        "matmul",
        ("a", "b"),
        _matmul,
        _product_flops,
        "matrix product over the last two axes; batch axes broadcast",
        axes=matmul_axes,
    )
)
register(
    OpDef("einsum", "matmul", ("*xs",), _einsum, _einsum_flops, "sum of products by named axes", kinds={"equation": TEXT}, axes=einsum_axes)
)
