"""Products of an input with a weight as linear maps of rows, however they are written.

    linear   %y = linear(%x, %w, %b)                                  x [..., in],     w [out, in]
    matmul   %y = matmul(%x, %w)                                      x [..., in],     w [in, out]
             %y = matmul(%w, %x)                                      x [..., in, n],  w [out, in]
    einsum   %y = einsum(%x, %w) {equation="btd,dhk->bhtk"}           any order, several axes of inputs and outputs

Axes have labels, as in an equation: *features* are those of the weight that are summed over, *outputs* those of the weight that
the result has, *rows* those that only the input and the result have. An equation whose weight has an axis that all three have is
one map per position of it, and no product here; nor is one that takes a diagonal or sums the input alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ops.einsum import parse_equation
from graphopt.ops.registry import Call

__all__ = ["Product", "added_bias", "is_bias", "product_of", "weight_index"]

_RANK = "rank"


@dataclass(frozen=True, slots=True)
class Product:
    """A node as one linear map; `input` and `weight` are indices of its operands, the others labels of axes."""

    node: Node
    input: int
    weight: int
    input_labels: tuple[str, ...]
    weight_labels: tuple[str, ...]
    result_labels: tuple[str, ...]

    @property
    def has_state(self) -> bool:
        """True where the weight is a parameter, buffer or constant, not computed at run time."""
        return _is_state(self.node, self.node.value(self.weight))

    @property
    def features(self) -> tuple[str, ...]:
        """Labels that are summed over, in order of the weight."""
        return tuple(label for label in self.weight_labels if label not in self.result_labels)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Labels of the weight that the result has, in order of the weight."""
        return tuple(label for label in self.weight_labels if label in self.result_labels)

    @property
    def feature_count(self) -> int:
        """Inputs of the map."""
        return self._count(self.features)

    @property
    def output_count(self) -> int:
        """Outputs of the map."""
        return self._count(self.outputs)

    @property
    def feature_axes(self) -> tuple[int, ...]:
        """Axes of the weight that are summed over."""
        return tuple(axis for axis, label in enumerate(self.weight_labels) if label not in self.result_labels)

    @property
    def channel_axis(self) -> int:
        """The axis of the result that the outputs are on, -1 where they are on several."""
        return self.result_labels.index(self.outputs[0]) if len(self.outputs) == 1 else -1

    def input_rows(self, x: torch.Tensor) -> torch.Tensor:
        """[rows..., features]: a view where there is one axis of features."""
        return self._with_last(x, self.input_labels, self.features)

    def output_rows(self, result: torch.Tensor) -> torch.Tensor:
        """[rows..., outputs] of a tensor in the shape of the result."""
        return self._with_last(result, self.result_labels, self.outputs)

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as [outputs, features]."""
        order = [self.weight_labels.index(label) for label in (*self.outputs, *self.features)]
        return weight.permute(order).reshape(self.output_count, self.feature_count)

    def weight_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """[outputs, features] in the layout of the weight."""
        order = (*self.outputs, *self.features)
        sizes = dict(zip(self.weight_labels, self.node.value(self.weight).type.static_shape, strict=True))
        return matrix.reshape([sizes[label] for label in order]).permute([order.index(label) for label in self.weight_labels])

    @property
    def splits(self) -> bool:
        """True where the map can become two and the weight's axes stay, one of them smaller: inputs or outputs are on one axis."""
        return len(self.features) == 1 or len(self.outputs) == 1

    @property
    def second_is_named(self) -> bool:
        """Of two products in its place, which has the weight's axes: the second where outputs are on several, else the first."""
        return len(self.outputs) > 1

    def halves(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[rank, features] and [outputs, rank] in the layouts of the weights of two products, one behind the other.

        The one with the weight's axes has the rank in the place of the single axis that the other one reads or gives.
        """
        labels = self._half_labels(_RANK)
        sizes = dict(zip(self.weight_labels, self.node.value(self.weight).type.static_shape, strict=True)) | {_RANK: first.shape[0]}

        def laid_out(half: torch.Tensor, order: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
            return half.reshape([sizes[label] for label in order]).permute([order.index(label) for label in wanted])

        return laid_out(first, (_RANK, *self.features), labels[0]), laid_out(second, (*self.outputs, _RANK), labels[1])

    def halves_attrs(self) -> tuple[Mapping[str, Attribute], Mapping[str, Attribute]] | None:
        """Attributes of these two where they differ: an equation becomes two, with a new letter for the rank between them."""
        if self.node.op != "einsum":
            return None
        used = {*self.input_labels, *self.weight_labels, *self.result_labels}
        rank = next(letter for letter in "rabcdefghijklmnopqstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in used)
        between = (*(label for label in self.input_labels if label not in self.features), rank)
        first, second = self._half_labels(rank)
        equations = self._equation(self.input_labels, first, between), self._equation(between, second, self.result_labels)
        return {**self.node.attrs, "equation": equations[0]}, {**self.node.attrs, "equation": equations[1]}

    def _half_labels(self, rank: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Labels of the weights of two products."""
        if self.second_is_named:
            return (*self.features, rank), tuple(rank if label in self.features else label for label in self.weight_labels)
        first = tuple(rank if label in self.outputs else label for label in self.weight_labels)
        feature = next(index for index, label in enumerate(self.weight_labels) if label in self.features)
        output = self.weight_labels.index(self.outputs[0])
        return first, (rank, *self.outputs) if feature < output else (*self.outputs, rank)

    def _equation(self, inputs: Sequence[str], weight: Sequence[str], result: Sequence[str]) -> str:
        terms = [_term(inputs), _term(weight)]
        return f"{','.join(terms if self.input == 0 else terms[::-1])}->{_term(result)}"

    def _count(self, labels: Sequence[str]) -> int:
        count = 1
        for size, label in zip(self.node.value(self.weight).type.static_shape, self.weight_labels, strict=True):
            count *= size if label in labels else 1
        return count

    def _with_last(self, tensor: torch.Tensor, labels: Sequence[str], last: Sequence[str]) -> torch.Tensor:
        rows = [label for label in self.result_labels if label not in self.outputs]
        turned = tensor.permute([labels.index(label) for label in (*rows, *last)])
        return turned if len(last) == 1 else turned.flatten(len(rows))


def product_of(node: Node) -> Product | None:
    """The node as a product with a weight; None where it is none."""
    if node.op == "linear":
        rows = _rows(node.value(0).type.rank - 1)
        return Product(node, 0, 1, (*rows, "i"), ("o", "i"), (*rows, "o"))
    if node.op == "matmul":
        return _product_of_matmul(node)
    return _product_of_einsum(node) if node.op == "einsum" else None


def weight_index(node: Node) -> int:
    """Which operand of a layer is its weight."""
    product = product_of(node) if node.op in ("matmul", "einsum") else None
    return 1 if product is None else product.weight


def added_bias(node: Node) -> tuple[Node, int] | None:
    """The addition of one number per channel that alone reads a result with channels on the last axis, and which operand they are.

    %m = matmul(%x, %weight)   %y = add(%m, %bias)
    """
    product, uses = product_of(node), node.results[0].uses
    if product is None or product.channel_axis != node.result.type.rank - 1 or len(uses) != 1 or uses[0].node.op != "add":
        return None
    index = 1 - uses[0].index
    return (uses[0].node, index) if is_bias(uses[0].node.operands[index], node.results[0]) else None


def is_bias(operand: Operand, value: Value) -> bool:
    """True for one number per position of the last axis that no node computes."""
    return isinstance(operand, Value) and operand.producer is None and len(value.shape) > 1 and operand.shape == value.shape[-1:]


def _product_of_matmul(node: Node) -> Product | None:
    left, right = node.operands
    if not isinstance(left, Value) or not isinstance(right, Value) or left.type.rank < 2 or right.type.rank < 2:
        return None
    if left.type.rank == 2 and _is_state(node, left) and not _is_state(node, right):
        rows = _rows(right.type.rank - 2)
        return Product(node, 1, 0, (*rows, "i", "n"), ("o", "i"), (*rows, "o", "n"))
    if right.type.rank != 2:
        return None
    rows = _rows(left.type.rank - 1)
    return Product(node, 0, 1, (*rows, "i"), ("i", "o"), (*rows, "o"))


def _product_of_einsum(node: Node) -> Product | None:
    """Of two operands one is a state, no axis is stretched, and each label has one of the three parts."""
    values = [operand for operand in node.operands if isinstance(operand, Value)]
    states = [index for index, value in enumerate(values) if _is_state(node, value)]
    equation = node.attrs["equation"]
    if len(values) != 2 or len(states) != 1 or not isinstance(equation, str):
        return None
    call = Call(node.op, tuple(value.type for value in values), node.attrs)
    parsed = parse_equation(call, equation, tuple(value.type.rank for value in values))
    weight = states[0]
    product = Product(node, 1 - weight, weight, parsed.inputs[1 - weight], parsed.inputs[weight], parsed.output)
    sizes: dict[str, object] = {}
    for labels, value in zip(parsed.inputs, values, strict=True):
        if len(set(labels)) != len(labels) or any(
            sizes.setdefault(label, dim) != dim for label, dim in zip(labels, value.shape, strict=True)
        ):
            return None
    inputs, features, outputs = set(product.input_labels), set(product.features), set(product.outputs)
    fits = features and outputs and features <= inputs and not outputs & inputs and inputs - features <= set(product.result_labels)
    return product if fits and not any(label.startswith("...") for label in product.weight_labels) else None


def _is_state(node: Node, value: Value) -> bool:
    return node.graph is not None and node.graph.state_of(value) is not None


def _rows(count: int) -> tuple[str, ...]:
    return tuple(f"row {index}" for index in range(count))


def _term(labels: Sequence[str]) -> str:
    """Labels as an equation has them; those of an ellipsis stand side by side."""
    letters = [label for label in labels if not label.startswith("...")]
    first = next((index for index, label in enumerate(labels) if label.startswith("...")), None)
    return "".join(letters if first is None else [*letters[:first], "...", *letters[first:]])
