"""Compile-time constants of a kernel as a C++ struct that people can read.

struct S {
  static constexpr int IN_CHANNELS = 64;
  static constexpr Strides X = {0, 53824, 928, 16};
  static constexpr long BATCH[] = {8, 12};
};
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeGuard

from graphopt.backends.cpu.frame import Strides
from graphopt.backends.cpu.kernels.vector_ops import float_literal

__all__ = ["Value", "shape_code"]

Value: TypeAlias = "int | bool | float | Strides | tuple[int, ...]"


def _is_commented(value: Value | tuple[Value, str]) -> TypeGuard[tuple[Value, str]]:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)


def shape_code(values: Mapping[str, Value | tuple[Value, str]], name: str = "S", base: str = "") -> str:
    """The struct. A value may come with a comment; `base` is a struct whose other constants are kept."""
    lines = [f"struct {name}{f' : {base}' if base else ''} {{"]
    for key, value in values.items():
        number, comment = value if _is_commented(value) else (value, "")
        match number:
            case tuple():
                key, c_type, text = f"{key}[]", "long", f"{{{', '.join(map(str, number))}}}"
            case Strides():
                c_type, text = "Strides", number.code
            case bool():
                c_type, text = "bool", str(number).lower()
            case float():
                c_type, text = "float", float_literal(number)
            case _:
                c_type, text = ("int", str(number)) if abs(number) < 2**31 else ("long", str(number))
        lines.append(f"  static constexpr {c_type} {key} = {text};" + (f"  // {comment}" if comment else ""))
    return "\n".join([*lines, "};"]) + "\n"
