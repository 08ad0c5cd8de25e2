"""Chains as functors: a kernel that only loads, calls the chain and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.chain import Chain, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.frame import Frame, image_frame, rows_frame
from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_fits, epilogue_code
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

F32 = DType.f32
Array = NDArray[numpy.generic]
SHAPE = (2, 24, 3, 20)


@dataclass(frozen=True)
class Through(Kernel):
    """y = chain(x), in the plainest way."""

    x: Storage
    y: Storage
    chain: Chain
    frame: Frame
    lanes: Literal["c", "w"] = "c"

    algorithm: ClassVar[str] = "through"
    headers: ClassVar[tuple[str, ...]] = ("runtime.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.x, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.y,)

    def describe(self) -> str:
        return self.chain.text

    def emit(self, pointers: Pointers) -> Code:
        n, c, h, w = self.frame.sizes(self.y.shape)
        declaration, made = epilogue_code(self.chain, self.frame, (n, c, h, w), pointers, "Ending", self.lanes)
        if self.lanes == "c":
            x, y = self.frame.strides(self.x), self.frame.strides(self.y)
            assert x is not None and y is not None  # noqa: PT018
            loops, end = f"for (int c = 0; c < {c}; c += 16) for (int w = 0; w < {w}; ++w)", f"{c} - c"
            places = [f"n * {s.n}L + c / 16 * {s.block}L + h * {s.h}L + w * {s.w}L" for s in (x, y)]
        else:
            loops, end = f"for (int c = 0; c < {c}; ++c) for (int w = 0; w < {w}; w += 16)", f"{w} - w"
            places = [f"n * {s.strides[0]}L + c * {s.strides[1]}L + h * {s.strides[2]}L + w" for s in (self.x, self.y)]
        statements = f"""
        const auto ending = {made};
        const float* x = {pointers.read(self.x)};
        float* y = {pointers.write(self.y)};
        if (worker.index != 0) return;
        for (int n = 0; n < {n}; ++n) for (int h = 0; h < {h}; ++h) {loops} {{
          const int count = {end} < 16 ? {end} : 16;
          store_first(y + {places[1]}, ending(load_first(x + {places[0]}, count), n, c, h, w), count);
        }}"""
        return Code(declaration, statements)


def _random(shape: tuple[int, ...], seed: int) -> NDArray[numpy.float32]:
    return numpy.random.default_rng(seed).standard_normal(shape).astype(numpy.float32)


def _through(view: Storage | None) -> Storage:
    assert view is not None
    return view


@pytest.mark.parametrize("isa", ["avx512", "generic"])
def test_operands_of_every_layout(isa: str) -> None:
    own = {
        "b": blocked("b", F32, SHAPE, (1, 1)),
        "l": channels_last("l", F32, SHAPE),
        "c": plain("c", F32, (24, 1, 1)),
        "p": plain("p", F32, (2, 1, 3, 20)),
        "s": plain("s", F32, ()),
        "t": plain("t", DType.boolean, (1, 24, 1, 1)),
    }
    operands = tuple(_through(storage.expand(SHAPE)) for storage in own.values())
    operations = (
        Operation("add", (TheValue(), FromOperand(0))),
        Operation("mul", (FromOperation(0), FromOperand(1))),
        Operation("add", (FromOperation(1), FromOperand(2))),
        Operation("sub", (FromOperand(3), FromOperation(2))),
        Operation("mul", (FromOperation(3), FromOperand(4))),
        Operation("where", (FromOperand(5), FromOperation(4), Constant(-2.5))),
        Operation("clamp", (FromOperation(5),), {"minimum": -2, "maximum": None}),
    )
    chain = Chain(operations, operands)
    x, y = channels_last("x", F32, SHAPE), blocked("y", F32, SHAPE)
    assert chain_fits(chain, image_frame())
    built = Built([Through(x, y, chain, image_frame())], [x, *own.values()], [y], isa=isa)
    values: dict[str, Array] = {name: _random(storage.shape, number) for number, (name, storage) in enumerate(own.items())}
    values["t"] = numpy.arange(24).reshape(1, 24, 1, 1) % 3 == 0
    value = _random(SHAPE, 99)
    memories = {name: memory_of(values[name], storage) for name, storage in own.items()} | {"x": memory_of(value, x)}
    found = value_of(built.run(memories)["y"], y)
    t = {name: torch.from_numpy(array) for name, array in values.items()}
    want = (t["p"] - ((torch.from_numpy(value) + t["b"]) * t["l"] + t["c"])) * t["s"]
    want = torch.where(t["t"], want, -2.5).clamp(min=-2)
    assert numpy.allclose(found, want.numpy(), rtol=1e-5, atol=1e-5)


def test_lanes_along_w() -> None:
    p, c, w = plain("p", F32, SHAPE), plain("c", F32, (24, 1, 1)), plain("w", F32, (20,))
    operands = tuple(_through(storage.expand(SHAPE)) for storage in (p, c, w))
    operations = (
        Operation("mul", (TheValue(), FromOperand(0))),
        Operation("sub", (FromOperation(0), FromOperand(1))),
        Operation("maximum", (FromOperation(1), FromOperand(2))),
    )
    chain = Chain(operations, operands)
    x, y = plain("x", F32, SHAPE), plain("y", F32, SHAPE)
    assert chain_fits(chain, image_frame(), "w")
    built = Built([Through(x, y, chain, image_frame(), "w")], [x, p, c, w], [y])
    values = {storage.buffer: _random(storage.shape, number) for number, storage in enumerate((x, p, c, w))}
    found = value_of(built.run({storage.buffer: memory_of(values[storage.buffer], storage) for storage in (x, p, c, w)})["y"], y)
    want = numpy.maximum(values["x"] * values["p"] - values["c"], values["w"])
    assert numpy.allclose(found, want, rtol=1e-6, atol=1e-6)


def test_rows_of_features() -> None:
    shape = (2, 5, 40)
    x, y, a = (plain(name, F32, shape) for name in "xya")
    b = plain("b", F32, (40,))
    chain = Chain(
        (
            Operation("add", (TheValue(), FromOperand(0))),
            Operation("pow", (FromOperation(0), Constant(2.0))),
            Operation("mul", (FromOperation(1), FromOperand(1))),
        ),
        (a, _through(b.expand(shape))),
    )
    assert chain_fits(chain, rows_frame(3))
    built = Built([Through(x, y, chain, rows_frame(3))], [x, a, b], [y])
    values = {storage.buffer: _random(storage.shape, number) for number, storage in enumerate((x, a, b))}
    found = value_of(built.run({name: value.reshape(-1) for name, value in values.items()})["y"], y)
    assert numpy.allclose(found, (values["x"] + values["a"]) ** 2 * values["b"], rtol=1e-5)


def test_chains_that_do_not_fit_say_so() -> None:
    value = plain("x", F32, SHAPE)
    assert not chain_fits(Chain((Operation("add", (TheValue(), FromOperand(0))),), (value,)), image_frame())
    assert not chain_fits(
        Chain((Operation("add", (TheValue(), FromOperand(0))),), (plain("i", DType.i64, SHAPE).permute((0, 3, 1, 2)),)), image_frame()
    )
    assert not chain_fits(Chain((Operation("bitwise_not", (TheValue(),)),)), image_frame())
    truths = (Operation("lt", (TheValue(), Constant(0.0))), Operation("gt", (TheValue(), Constant(1.0))))
    assert not chain_fits(Chain((*truths, Operation("add", (FromOperation(0), FromOperation(1))))), image_frame())
    assert chain_fits(Chain((*truths, Operation("logical_or", (FromOperation(0), FromOperation(1))))), image_frame())


def test_no_chain_is_the_identity() -> None:
    class Nowhere:
        scratch = shared = ""

        def read(self, storage: Storage) -> str:
            return storage.buffer

        write = read

        def packed(self, index: int = 0) -> str:
            return str(index)

    assert epilogue_code(Chain(), image_frame(), (1, 1, 1, 1), Nowhere()) == ("", "Identity{}")
