"""States: the parameters, buffers and constants of a model, under their `state_dict` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.ir.data import Data
from graphopt.ir.nodes import Value
from graphopt.ir.types import TensorType

__all__ = ["State", "StateKind"]

StateKind: TypeAlias = Literal["param", "buffer", "constant"]
"""`param` (in `state_dict`, trained), `buffer` (may be in `state_dict`) or `constant` (made by capture or a pass)."""


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that belongs to the model: parameter, buffer or constant.

    `value.name` is the torch name. `tied` are further `state_dict` names of the same tensor (tied weights).
    `trainable` is `requires_grad`. `persistent` False is a buffer that `state_dict` leaves out.
    `digest` is the SHA-256 of the numbers when they came from a file. `data` is None in a graph that was
    parsed from text alone.
    """

    value: Value
    kind: StateKind
    data: Data | None = None
    tied: tuple[str, ...] = ()
    trainable: bool = True
    persistent: bool = True
    digest: str | None = None

    @property
    def name(self) -> str:
        """The `state_dict` name."""
        return self.value.name

    @property
    def type(self) -> TensorType:
        """Dtype, shape and sparsity annotation."""
        return self.value.type
