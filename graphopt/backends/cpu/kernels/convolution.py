"""The attributes of a convolution, one- or two-dimensional, as a pair (h, w) each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from graphopt.ir.attributes import Attribute

__all__ = ["Convolution"]


@dataclass(frozen=True, slots=True)
class Convolution:
    """`conv1d` and `conv2d` of docs/ops.md; of `conv1d`, h is 1."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, attrs: Mapping[str, Attribute], kernel: Sequence[int]) -> Convolution:
        """From a node's attributes and the last axes of its weight."""

        def pair(values: Sequence[int], missing: int) -> tuple[int, int]:
            return (missing, values[0]) if len(values) == 1 else (values[0], values[1])

        def attribute(name: str, missing: int) -> tuple[int, int]:
            return pair(cast("Sequence[int]", attrs[name]), missing)

        return cls(pair(kernel, 1), attribute("stride", 1), attribute("padding", 0), attribute("dilation", 1), cast("int", attrs["groups"]))

    @property
    def is_pointwise(self) -> bool:
        """1x1 without stride or padding: pixels do not see each other."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def taps(self) -> int:
        """Weights per pair of channels."""
        return self.kernel[0] * self.kernel[1]

    @property
    def text(self) -> str:
        """`conv 3x3 stride 2 groups 4`: what differs from the default."""
        body = f"conv {self.kernel[0]}x{self.kernel[1]}"
        for name, value, default in (("stride", self.stride, 1), ("dilation", self.dilation, 1)):
            if value != (default, default):
                body += f" {name} {value[0] if value[0] == value[1] else f'{value[0]}x{value[1]}'}"
        return body + (f" groups {self.groups}" if self.groups != 1 else "")
