"""A `Chain` as a C++ functor that a kernel calls on each vector before it stores it.

    // add + relu
    struct Epilogue {
      const float* operand_0;  // f32[1,64,56,56] blocked(1)
      GRAPHOPT_INLINE Vec operator()(Vec v, int, int c, int h, int w) const {
        const Vec x0 = load(operand_0 + (c >> 4) * 50176L + h * 896L + w * 16L);
        const Vec v0 = v + x0;
        return relu(v0);
      }
    };

Operands are addressed by constant strides. With `lanes="c"` a vector is 16 channels of one position; with
`lanes="w"` it is 16 neighbours along w of one channel, and c is any channel.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.backends.cpu.chain import Argument, Chain, Constant, FromOperand, FromOperation
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Pointers
from graphopt.backends.cpu.kernels.vector_ops import VECTOR_HEADERS, float_literal, is_vector_chain, vector_expression
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType

__all__ = ["CHAIN_HEADERS", "Lanes", "chain_fits", "chain_operands", "epilogue_code"]

CHAIN_HEADERS = ("epilogue.hpp", *VECTOR_HEADERS)
"""Headers of a kernel that has a chain."""

Lanes: TypeAlias = 'Literal["c", "w"]'

_LOADS = {DType.f32: "", DType.boolean: "_truth"}
"""Suffix of the loading functions by dtype; truth values become 1.0 and 0.0."""


@dataclass(frozen=True, slots=True)
class _Place:
    """How an operand is addressed: strides per index, whether lanes lie side by side, and lanes that may be read."""

    steps: tuple[tuple[str, int], ...]
    is_vector: bool
    tail: int
    """Lanes of the last vector where fewer than 16 exist, else 0."""


def _collapse(storage: Storage, axes: tuple[int, ...]) -> int | None:
    real = [axis for axis in axes if storage.shape[axis] != 1]
    for left, right in itertools.pairwise(real):
        if storage.strides[left] != storage.strides[right] * storage.shape[right]:
            return None
    return storage.strides[real[-1]] if real else 0


def _place_channels(storage: Storage, frame: Frame) -> _Place | None:
    strides = frame.strides(storage)
    if strides is None:
        return None
    channels = storage.shape[frame.c]
    steps = (("n", strides.n), ("h", strides.h), ("w", strides.w))
    if strides.lane == 0:
        return _Place(steps, False, 0)
    group = ("c", 1) if strides.block == LANES else ("(c >> 4)", strides.block)
    padded = storage.blocked_axis is not None
    return _Place((steps[0], group, *steps[1:]), True, 0 if padded else channels % LANES)


def _place_pixels(storage: Storage, frame: Frame) -> _Place | None:
    places = [_collapse(storage, axes) for axes in (frame.n, frame.h, frame.w)]
    if None in places:
        return None
    n, h, w = (place or 0 for place in places)
    pixels = frame.sizes(storage.shape)[3]
    if w not in (0, 1) and pixels != 1:
        return None
    is_vector = w == 1 or pixels == 1
    channel = (
        (("(c >> 4)", storage.block_stride), ("(c & 15)", 1)) if storage.blocked_axis == frame.c else (("c", storage.strides[frame.c]),)
    )
    if storage.blocked_axis not in (None, frame.c):
        return None
    steps = (("n", n), *channel, ("h", h), ("w", 1 if is_vector else 0))
    return _Place(steps, is_vector, pixels % LANES if is_vector else 0)


def _place(storage: Storage, frame: Frame, lanes: Lanes) -> _Place | None:
    return _place_channels(storage, frame) if lanes == "c" else _place_pixels(storage, frame)


def chain_fits(chain: Chain, frame: Frame, lanes: Lanes = "c") -> bool:
    """True when `epilogue_code` can write the chain: known ops, and operands with strides that the frame can tell."""
    known = all(storage.dtype in _LOADS and _place(storage, frame, lanes) is not None for storage in chain.operands)
    return known and is_vector_chain(chain)


def chain_operands(chain: Chain) -> tuple[Storage, ...]:
    """What a kernel with this chain reads besides its own operands."""
    return chain.operands


def epilogue_code(
    chain: Chain, frame: Frame, sizes: Sequence[int], pointers: Pointers, name: str = "Epilogue", lanes: Lanes = "c"
) -> tuple[str, str]:
    """(declaration of the functor, expression that constructs it); ("", "Identity{}") for an empty chain.

    `sizes` is (n, c, h, w) of the value. The chain must fit (`chain_fits`).
    """
    if not chain:
        return "", "Identity{}"
    used = {axis for axis, size in zip("nchw", sizes, strict=True) if size != 1}
    end = dict(zip("nchw", sizes, strict=True))[lanes]
    fields: list[str] = []
    body: list[str] = []
    for index, storage in enumerate(chain.operands):
        place = _place(storage, frame, lanes)
        assert place is not None, f"{storage.text} does not fit the frame"
        c_type = "bool" if storage.dtype is DType.boolean else "float"
        fields.append(f"  const {c_type}* operand_{index};  // {storage.moved('', 0).text.strip()}")
        body.append(f"    const Vec x{index} = {_load(place, f'operand_{index}', used, _LOADS[storage.dtype], lanes, end)};")
    for index, operation in enumerate(chain.operations):
        expression = vector_expression(operation, [_argument(argument) for argument in operation.arguments])
        last = index == len(chain.operations) - 1
        body.append(f"    return {expression};" if last else f"    const Vec v{index} = {expression};")
    text = "\n".join(body)
    parameters = ", ".join(f"int {axis}" if _mentions(text, axis) else "int" for axis in "nchw")
    value = "Vec v" if _mentions(text, "v") else "Vec"
    lines = [
        f"//{chain.text.removeprefix(' +')}",
        f"struct {name} {{",
        *fields,
        f"  GRAPHOPT_INLINE Vec operator()({value}, {parameters}) const {{",
        text,
        "  }",
        "};",
    ]
    return "\n".join(lines) + "\n", f"{name}{{{', '.join(pointers.read(storage) for storage in chain.operands)}}}"


def _load(place: _Place, pointer: str, used: set[str], suffix: str, lanes: Lanes, end: int) -> str:
    terms = [index if stride == 1 else f"{index} * {stride}L" for index, stride in place.steps if stride and index.strip("(")[0] in used]
    address = " + ".join([pointer, *terms])
    if not place.is_vector:
        return f"splat{suffix}({address})" if suffix else f"splat({pointer}[{' + '.join(terms) or '0'}])"
    if place.tail == 0:
        return f"load{suffix}({address})"
    if end < LANES:
        return f"load_first{suffix}({address}, {end})"
    return f"{lanes} + {LANES} <= {end} ? load{suffix}({address}) : load_first{suffix}({address}, {place.tail})"


def _argument(argument: Argument) -> str:
    match argument:
        case Constant(value):
            return f"splat({float_literal(value)})"
        case FromOperand(index):
            return f"x{index}"
        case FromOperation(index):
            return f"v{index}"
        case _:
            return "v"


def _mentions(text: str, name: str) -> bool:
    """True when the identifier `name` stands in C++ text."""
    return re.search(rf"\b{name}\b", text) is not None
