"""Matrix products.

mm, bmm, mv, dot          ->  matmul
addmm(b, x, w)            ->  matmul and add, scaled by beta and alpha where they are not 1
"""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Value

__all__: list[str] = []


@handles("linear")
def _linear(context: Context, call: TorchCall) -> Value:
    return context.emit("linear", call.value("input"), call.value("weight"), call.optional("bias"))


@handles("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul")
def _matmul(context: Context, call: TorchCall) -> Value:
    if call.overload not in ("default", ""):
        raise NotExpressible("matrix product into another dtype")
    second = next(name for name in ("other", "mat2", "vec", "tensor") if name in call.arguments)
    return context.emit("matmul", call.value("self"), call.value(second))


@handles("addmm", "baddbmm", "addmv")
def _addmm(context: Context, call: TorchCall) -> Value:
    first, second = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}[call.name]
    product = context.emit("matmul", call.value(first), call.value(second))
    alpha, beta = call.number("alpha"), call.number("beta")
    if alpha != 1:
        product = context.emit("mul", product, alpha)
    if beta == 0:
        return product  # torch ignores the summand then, NaN in it too
    summand = call.value("self")
    if beta != 1:
        summand = context.emit("mul", summand, beta)
    return context.emit("add", summand, product)


@handles("einsum")
def _einsum(context: Context, call: TorchCall) -> Value:
    return context.emit("einsum", *call.values("tensors"), equation=call.text("equation"))
