"""Convolutions, matrix products and attention: library calls, with the chain as a kernel behind them that works in place.

conv2d + add + relu      cuDNN convolution without bias, then (+ bias + residual + relu) in one pass; or all in one cuDNN call
linear + gelu            cuBLASLt with bias, then gelu; or an emitted product that does both; or one that skips the zeros of
                         a weight with blocks of them, or with two of four
silu -> linear           silu, then cuBLASLt; or an emitted product that does both
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from graphopt.backends.cuda.chain import Argument, Chain, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cuda.kernel import Kernel, Literal, Unsupported
from graphopt.backends.cuda.kernels.block_sparse import BlockSparse, pack_blocks
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.kernels.gemm import Gemm
from graphopt.backends.cuda.planner.builder import Builder, Maker
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.semi_structured import COLUMNS, ROWS, is_two_of_four, multiplies_2_4, pack
from graphopt.backends.cuda.states import state_reader
from graphopt.backends.cuda.steps import LibraryStep
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.planning.groups import Group
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType, SparsityPattern, TensorType
from graphopt.ops.registry import call_of, definition

__all__ = ["MAKERS", "convolution"]


def _operations(builder: Builder, node: Node) -> int:
    """Floating-point operations of a node, as its op counts them."""
    types = tuple(TensorType(result.type.dtype, result.type.shape) for result in node.results)
    return builder.shapes.dim(definition(node.op).flops(call_of(node), types))


def _optional(node: Node, index: int) -> Value | None:
    operand = node.operands[index] if index < len(node.operands) else None
    return operand if isinstance(operand, Value) else None


def _stored(builder: Builder, value: Value) -> Storage:
    """Where a value is, in the dtype that all operands of a library call have; vectors of parameters are kept in f32 otherwise."""
    storage, wanted = builder.storage(value), builder.stored(value.type.dtype)
    return storage if storage.dtype is wanted else builder.copied(storage, storage.order, wanted)


def _dense(builder: Builder, value: Value, order: Sequence[int]) -> Storage:
    """An operand of a library call: without gaps, in one order of axes."""
    if builder.graph.state_of(value) is not None:
        return builder.parameter(value, order, exact=False)
    return builder.dense(_stored(builder, value), order)


def convolution(builder: Builder, group: Group) -> Sequence[Way]:
    """A convolution, transposed or not, by cuDNN: with the chain behind it, or in one call where that is relu or a sum and relu."""
    node = group.anchor
    x, weight = node.value(0), node.value(1)
    rank = x.type.rank
    if rank != weight.type.rank:
        raise Unsupported(f"{node.op} without a batch has no library call")
    order = (0, 2, 3, 1) if builder.layouts.is_image(x) and rank == 4 else tuple(range(rank))
    bias = _optional(node, 2)
    names = ["stride", "padding", "dilation"]
    is_transposed = node.op.startswith("conv_transpose")
    if is_transposed:
        names.insert(2, "output_padding")
    constants = (*((name, builder.shapes.dims(node.attrs[name])) for name in names), ("groups", builder.shapes.dim(node.attrs["groups"])))
    operands = (_dense(builder, x, order), _dense(builder, weight, order))
    made = builder.new("torch", node.results[0].type.dtype, builder.shapes.of(node.results[0]), order)
    title = _title(node, builder, dict(constants))
    function = "transposed_convolution" if is_transposed else "convolution"
    if bias is not None and not group.chain:
        call = LibraryStep(
            function, (*operands, _dense(builder, bias, (0,))), made, constants, f"{title} + bias", _operations(builder, node)
        )
        return [Way((call,), made, function)]
    call = LibraryStep(function, (*operands, None), made, constants, title, _operations(builder, node))
    if bias is None:
        ways = [builder.finished(group, (call,), made, function)]
    else:
        ways = [_with_bias(builder, group, call, made, bias, function)]
    if not is_transposed and rank == 4:
        fused = _fused(builder, group, operands, bias, constants, title)
        ways += [fused] if fused is not None else []
    return ways


def _title(node: Node, builder: Builder, constants: dict[str, object]) -> str:
    weight, y = builder.shapes.of(node.value(1)), builder.shapes.of(node.results[0])
    channels = builder.shapes.of(node.value(0))[1]
    kernel = "x".join(map(str, weight[2:]))
    stride = constants["stride"]
    steps = "" if not isinstance(stride, tuple) or set(stride) <= {1} else f" stride {'x'.join(map(str, stride))}"
    groups = "" if constants["groups"] == 1 else f" groups {constants['groups']}"
    return f"{kernel}{steps}{groups} {channels}->{y[1]} @{'x'.join(map(str, y[2:]))}"


def _with_bias(builder: Builder, group: Group, call: LibraryStep, made: Storage, bias: Value, name: str) -> Way:
    """The chain behind the call adds the bias too: one pass over memory instead of two."""
    chain = builder.chain(group)
    shape = made.shape
    column = builder.storage(bias).reshape((shape[1], *(1,) * (len(shape) - 2)))
    if column is None:
        raise Unsupported("a bias has gaps")
    operand = column.expand(shape)
    first = Operation("add", (TheValue(), FromOperand(len(chain.operands))), chain.value, chain.value)
    moved = [replace(operation, arguments=tuple(_behind(argument) for argument in operation.arguments)) for operation in chain.operations]
    whole = Chain((first, *moved), (*chain.operands, operand), chain.value)
    fits = made.dtype is builder.stored(group.result.type.dtype)
    target = made if fits else builder.target(group)
    return Way((call, Elementwise(made, target, whole)), target, name)


def _behind(argument: Argument) -> Argument:
    """An argument of a chain that got an operation in front."""
    match argument:
        case TheValue():
            return FromOperation(0)
        case FromOperation(index):
            return FromOperation(index + 1)
        case _:
            return argument


def _fused(
    builder: Builder,
    group: Group,
    operands: tuple[Storage, Storage],
    bias: Value | None,
    constants: tuple[tuple[str, Literal], ...],
    title: str,
) -> Way | None:
    """conv + relu, or conv + add + relu, as one cuDNN call."""
    chain = builder.chain(group)
    ops = [operation.op for operation in chain.operations]
    result = group.result.type.dtype
    if result is not DType.f32 or group.path or ops not in (["relu"], ["add", "relu"]):
        return None
    order = builder.order(group)
    residual: Storage | None = None
    if ops[0] == "add":
        if len(chain.operands) != 1 or chain.operands[0].dtype is not operands[0].dtype or 0 in chain.operands[0].strides:
            return None
        residual = builder.dense(chain.operands[0], order)
    vector = None if bias is None else _dense(builder, bias, (0,))
    made = builder.new("torch", result, builder.shapes.of(group.anchor.results[0]), order)
    what = f"{title}{' + bias' if bias is not None else ''}{chain.text}"
    call = LibraryStep("convolution_relu", (*operands, vector, residual), made, constants, what, _operations(builder, group.anchor))
    return Way((call,), made, "convolution_relu")


def _linear(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    x, weight, bias = node.value(0), node.value(1), _optional(node, 2)
    if weight.type.rank != 2:
        raise Unsupported("linear with a vector as weight has no library call")
    first, stored = _made_before(builder, x)
    row = _rows(builder, stored)
    matrix = _dense(builder, weight, (0, 1))
    vector = None if bias is None else _dense(builder, bias, (0,))
    result = node.results[0]
    made = builder.new("torch", result.type.dtype, builder.shapes.of(result), range(result.type.rank))
    size = builder.shapes.of(weight)
    title = f"{row.elements // max(1, size[1])} x {size[1]}->{size[0]}{' + bias' if bias is not None else ''}"
    call = LibraryStep("linear", (row, matrix, vector), made, (), title, _operations(builder, node))
    ways = [builder.finished(group, (call,), made, "linear")]
    if multiplies_2_4(builder.options.device) and _is_2_4(builder, weight):
        ways.append(_linear_2_4(builder, group, (row, vector), weight, title))
    ways = [_behind_step(first, way) for way in ways]
    return [*ways, *_emitted_linear(builder, group, first, stored, weight, bias)]


def _made_before(builder: Builder, value: Value) -> tuple[tuple[Elementwise, ...], Storage]:
    """Operand 0 of a product, and the elementwise step that makes it where an emitted product may do that work as it reads."""
    waiting = builder.waiting(value)
    if waiting is None or waiting.y.dtype is not builder.stored(value.type.dtype) or not waiting.y.is_contiguous:
        return (), _stored(builder, value)
    return (waiting,), waiting.y


def _behind_step(first: Sequence[Elementwise], way: Way) -> Way:
    """A way that reads what a step makes."""
    return replace(way, works=(*first, *way.works))


def _product(first: Sequence[Elementwise], a: Storage, make: Callable[[Storage, Chain], Gemm]) -> tuple[Kernel, ...]:
    """An emitted product of what the step makes that comes first, if there is one: in one kernel where that can be."""
    for step in first:
        try:
            return (make(step.x, step.chain),)
        except Unsupported:
            continue
    return (*first, make(a, NO_CHAIN))


def _is_2_4(builder: Builder, weight: Value) -> bool:
    """True for a weight that sparse tensor cores can multiply: annotated, stored in 16 bits, of a shape that fits, and its numbers
    are what the annotation says."""
    state, sparsity, (rows, columns) = builder.graph.state_of(weight), weight.type.sparsity, builder.shapes.of(weight)
    if state is None or state.data is None or sparsity is None or sparsity.pattern is not SparsityPattern.N_M:
        return False
    if sparsity.shape != (2, 4) or sparsity.axis != 1 or not rows * columns or rows % ROWS or columns % COLUMNS:
        return False
    return builder.stored(weight.type.dtype) in (DType.f16, DType.bf16) and is_two_of_four(state.data.tensor().detach())


def _linear_2_4(builder: Builder, group: Group, operands: tuple[Storage, Storage | None], weight: Value, title: str) -> Way:
    """The product that skips half of the weights, then the chain."""
    node, (rows, columns), stored = group.anchor, builder.shapes.of(weight), builder.stored(weight.type.dtype)
    dtype = getattr(torch, stored.torch_name)

    def part(name: str, dtype_: DType, shape: tuple[int, int]) -> Storage:
        key = ("2:4", weight.name, name)
        return builder.numbers(key, dtype_, shape, lambda read: pack(read(weight.name).to(dtype))[name], exact=True)

    values = part("values", stored, (rows, columns // 2))
    metadata = part("metadata", DType.i16, (rows, columns // 16))
    result = node.results[0]
    made = builder.new("torch", result.type.dtype, builder.shapes.of(result), range(result.type.rank))
    row, bias = operands
    call = LibraryStep("linear_2_4", (row, values, metadata, bias), made, (), title, _operations(builder, node) // 2)
    return replace(builder.finished(group, (call,), made, "2:4"), patterns=_patterns(builder, metadata))


def _patterns(builder: Builder, *storages: Storage) -> Callable[[], dict[str, torch.Tensor]]:
    """Makes the numbers of state buffers, of weights whose numbers are known."""
    read, fills = state_reader(builder.graph), {storage.buffer: builder.fills[storage.buffer] for storage in storages}
    return lambda: {buffer: fill(read) for buffer, fill in fills.items()}


def _emitted_linear(
    builder: Builder, group: Group, first: Sequence[Elementwise], x: Storage, weight: Value, bias: Value | None
) -> list[Way]:
    """The product with its chain in one kernel; for weights annotated with blocks of zeros also one that skips them."""
    target = builder.target(group)
    chain = builder.chain(group)
    precision = builder.options.precision
    vector = None if bias is None else builder.storage(bias).expand(target.shape)
    ways: list[Way] = []
    try:
        matrix = builder.storage(weight).permute((1, 0))
        works = _product(first, x, lambda a, before: Gemm(a, matrix, target, vector, before, chain, precision))
        ways.append(Way(works, target, "gemm"))
    except Unsupported:
        return ways
    block = _block(builder, weight)
    if block is not None:
        values, columns, rows = _packed(builder, weight, block)
        made = builder.target(group)
        try:
            sparse = BlockSparse(x, values, columns, rows, made, block, vector, chain, precision)
            ways.append(Way((*first, sparse), made, "block sparse", _patterns(builder, columns, rows)))
        except Unsupported:
            return ways
    return ways


def _block(builder: Builder, weight: Value) -> tuple[int, int] | None:
    """The block of a weight that is annotated as block-sparse and whose numbers are known."""
    state, sparsity = builder.graph.state_of(weight), weight.type.sparsity
    if state is None or state.data is None or sparsity is None or sparsity.pattern is not SparsityPattern.BLOCK:
        return None
    return sparsity.shape


def _packed(builder: Builder, weight: Value, block: tuple[int, int]) -> tuple[Storage, Storage, Storage]:
    """State buffers of the kept blocks; how many there are follows from the numbers."""
    state = builder.graph.state_of(weight)
    assert state is not None, "the weight is a state"
    assert state.data is not None, "its numbers are known"
    sizes = {name: tuple(tensor.shape) for name, tensor in pack_blocks(state.data.tensor().detach(), block).items()}
    dtypes = {"values": weight.type.dtype, "columns": DType.i32, "rows": DType.i32}

    def part(name: str) -> Storage:
        key = ("blocks", weight.name, block, name)
        return builder.numbers(key, dtypes[name], sizes[name], lambda read: pack_blocks(read(weight.name), block)[name])

    return part("values"), part("columns"), part("rows")


def _rows(builder: Builder, storage: Storage) -> Storage:
    """[..., K] with rows that are a matrix, as cuBLAS reads them."""
    flat = storage.reshape((storage.elements // max(1, storage.shape[-1]), storage.shape[-1])) if storage.rank > 1 else storage
    return storage if flat is not None and flat.strides[-1] == 1 else builder.contiguous(storage)


def _matmul(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    b = _stored(builder, node.value(1))
    first, a = _made_before(builder, node.value(0))
    result = node.results[0]
    made = builder.new("torch", result.type.dtype, builder.shapes.of(result), range(result.type.rank))
    title = f"{a.type_text} @ {b.type_text}"
    call = LibraryStep("matmul", (_matrix(builder, a), _matrix(builder, b)), made, (), title, _operations(builder, node))
    ways = [_behind_step(first, builder.finished(group, (call,), made, "matmul"))]
    if min(a.rank, b.rank) < 2:
        return ways
    target, chain, precision = builder.target(group), builder.chain(group), builder.options.precision
    try:
        works = _product(first, a, lambda x, before: Gemm(x, b, target, None, before, chain, precision))
    except Unsupported:
        return ways
    return [*ways, Way(works, target, "gemm")]


def _matrix(builder: Builder, storage: Storage) -> Storage:
    """[..., M, K] that cuBLAS reads without a copy: one of the last two axes is contiguous."""
    if storage.rank < 2 or 1 in storage.strides[-2:] or storage.elements <= 1:
        return storage
    return builder.contiguous(storage)


def _attention(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    if node.attrs["dropout_p"] and node.attrs.get("mode") == "train":
        raise Unsupported("attention with dropout has no library call")
    q, k, v = (_stored(builder, node.value(index)) for index in range(3))
    mask = _optional(node, 3)
    scale, causal, grouped = node.attrs["scale"], node.attrs["causal"], node.attrs["grouped"]
    if not isinstance(scale, (int, float)) and scale is not None:
        raise Unsupported("attention with a symbolic scale has no library call")
    constants = (("causal", bool(causal)), ("scale", None if scale is None else float(scale)), ("grouped", bool(grouped)))
    operands = tuple(storage if storage.strides[-1] == 1 else builder.contiguous(storage) for storage in (q, k, v))
    kept: Storage | None = None
    if mask is not None:
        kept = builder.storage(mask)
        if kept.dtype is not DType.boolean and kept.dtype is not q.dtype:
            kept = builder.copied(kept, range(kept.rank), q.dtype)
    result = node.results[0]
    made = builder.new("torch", result.type.dtype, builder.shapes.of(result), range(result.type.rank))
    title = f"q {q.type_text}, k {k.type_text}{', causal' if causal else ''}{', mask' if mask is not None else ''}"
    call = LibraryStep("attention", (*operands, kept), made, constants, title, _operations(builder, node))
    return [builder.finished(group, (call,), made, "attention")]


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolution),
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
