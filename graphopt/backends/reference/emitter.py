"""How an op is said in torch calls, whoever is listening.

A lowering is written once, against an `Emitter`, and has three listeners:

    eager   runs the calls on tensors              graphopt.backends.reference.interpreter
    fx      records them as nodes of an fx graph   graphopt.capture.module
    source  writes them as Python text             graphopt.capture.source

    def layer_norm(emit, site):
        return emit.call("F.layer_norm", site[0], site["normalized_shape"], site[1], site[2], site["eps"])

Functions are named by text so that the source emitter can print them; the names are literals of the
lowerings, never text from a graph. Opaque ops are given as the `OpOverload` that was looked up.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as functional

from graphopt.backends.reference import functions
from graphopt.errors import LoweringError
from graphopt.ir.attributes import Attribute, Ref
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType, TensorType

if TYPE_CHECKING:
    from torch._ops import OpOverload

__all__ = ["AttributeEmitter", "Emitter", "Lowering", "Site", "function_named"]


class Emitter(Protocol):
    """Listens to the torch calls of a lowering. What it returns for a call (a handle) stands for the result."""

    def call(self, function: str | OpOverload, *args: Any, **kwargs: Any) -> Any:
        """Call a function: `torch.x`, `F.x`, `operator.x`, `helper.x` (of `functions`), `.x` (a method of the
        first argument) or an op of `torch.ops`. Arguments are handles, plain values, and containers of them."""
        ...

    def unpack(self, value: Any, count: int) -> tuple[Any, ...]:
        """The `count` items of a call that returns several tensors."""
        ...

    def value(self, attribute: Attribute) -> Any:
        """An attribute as a call argument: dims are evaluated and dtypes are torch's, inside tuples too."""
        ...

    def dim(self, dim: Dim) -> Any:
        """A dimension as a number, or as what computes it when the graph runs."""
        ...

    def dtype(self, dtype: DType) -> Any:
        """The torch dtype that stands for `dtype`; float64 for every float type in the precise world."""
        ...

    def training(self, mode: Attribute) -> Any:
        """Whether an op with this `mode` trains: `train`, `eval` are fixed, `follow` is the module's flag."""
        ...

    def device(self) -> Any:
        """Where the graph's tensors are, for ops that create one."""
        ...

    def running(self, value: Any) -> Any:
        """A buffer that a training op updates; the eager emitter hands out a copy, it never writes to the graph."""
        ...

    def state(self, name: str) -> Any:
        """The state called `name`, or None when the graph has none."""
        ...

    def branch(self, node: Node, predicate: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Run the first region of a `cond` where the predicate holds, else the second."""
        ...

    @property
    def precise(self) -> bool:
        """True in the float64 world."""
        ...


class AttributeEmitter(ABC):
    """What all emitters share: attributes as call arguments."""

    @abstractmethod
    def dim(self, dim: Dim) -> Any:
        """A dimension as a number, or as what computes it."""

    @abstractmethod
    def dtype(self, dtype: DType) -> Any:
        """The torch dtype."""

    def value(self, attribute: Attribute) -> Any:
        """Dims and dtypes in an attribute are replaced, inside tuples and lists too."""
        match attribute:
            case Expression():
                return self.dim(attribute)
            case DType():
                return self.dtype(attribute)
            case tuple():
                return tuple(self.value(item) for item in attribute)
            case list():
                return [self.value(item) for item in attribute]
            case Ref():
                raise LoweringError(f"an op of the table has the attribute ${attribute.index}, which only opaque ops can have")
            case _:
                return attribute


@dataclass(frozen=True, slots=True)
class Site:
    """A node with its operands as handles and its attributes as call arguments.

    `site[0]` is an operand (None when missing), `site["axis"]` an attribute.
    """

    node: Node
    operands: Sequence[Any]
    attrs: Mapping[str, Any]

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.attrs[key]
        return self.operands[key] if key < len(self.operands) else None

    def type(self, index: int) -> TensorType:
        """Declared type of operand `index`.

        Raises:
            LoweringError: it is no tensor.
        """
        operand = self.node.operands[index] if index < len(self.node.operands) else None
        if not isinstance(operand, Value):
            raise LoweringError(f"operand {index} of {self.node.op} is {operand!r}, needs a tensor", where=repr(self.node))
        return operand.type

    def is_literal(self, index: int) -> bool:
        """True when operand `index` is a number or a dimension."""
        operand = self.node.operands[index]
        return operand is not None and not isinstance(operand, Value)


Lowering = Callable[[Emitter, Site], Any]
"""Returns the handle of the only result, or a tuple with one per result."""

_NAMESPACES: dict[str, Any] = {
    "torch": torch,
    "F": functional,
    "operator": operator,
    "helper": functions,
    "linalg": torch.linalg,
}


@cache
def function_named(name: str) -> Callable[..., Any]:
    """The function behind a name as lowerings use it (`torch.relu`, `F.conv2d`, `helper.batch_norm`)."""
    namespace, _, rest = name.partition(".")
    return getattr(_NAMESPACES[namespace], rest)
