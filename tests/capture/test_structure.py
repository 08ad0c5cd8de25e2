from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.capture.structure import rebuild_output
from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import Ref
from graphopt.ir.parser import parse
from graphopt.ir.printer import show


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class Record:
    logits: torch.Tensor
    extra: torch.Tensor | None = None


torch.export.register_dataclass(Record, serialized_type_name="graphopt.tests.Record")


class Nested(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, scale: float = 2.0, *, mask: torch.Tensor | None = None, pair: Any = None) -> Any:
        y = x * scale if mask is None else x * mask
        z = y + 1 if pair is None else y + pair["a"] * pair["b"][0]
        match self.kind:
            case "tensor":
                return z
            case "dict":
                return {"z": z, "parts": [y, (z, None)], "count": 3}
            case "ordered":
                return OrderedDict(z=z, y=y)
            case "named tuple":
                return Pair(y, z)
            case "dataclass":
                return Record(z)
            case _:
                return {1: z}


X = torch.randn(2, 3)


@pytest.mark.parametrize(
    ("kind", "returns"),
    [
        ("tensor", Ref(0)),
        ("dict", {"z": Ref(0), "parts": [Ref(1), (Ref(2), None)], "count": 3}),
        ("ordered", {"z": Ref(0), "y": Ref(1)}),
        ("named tuple", (Ref(0), Ref(1))),
    ],
)
def test_outputs(kind: str, returns: Any) -> None:
    graph = capture(Nested(kind).eval(), (X,))
    assert graph.structure.returns == returns
    assert parse(show(graph)).structure == graph.structure


@pytest.mark.parametrize(("kind", "type_"), [("named tuple", Pair), ("dataclass", Record), ("ordered", OrderedDict)])
def test_original_type_comes_back_in_memory_and_a_plain_one_from_text(kind: str, type_: type) -> None:
    graph = capture(Nested(kind).eval(), (X,))
    outputs = [X, X + 1][: len(graph.outputs)]
    assert type(rebuild_output(graph.structure, outputs)) is type_
    assert type(rebuild_output(graph.clone().structure, outputs)) is type_
    assert type(rebuild_output(parse(show(graph)).structure, outputs)) is (tuple if kind == "named tuple" else dict)


def test_dataclass_fields_that_are_none_are_left_out() -> None:
    assert capture(Nested("dataclass").eval(), (X,)).structure.returns == {"logits": Ref(0)}


def test_inputs_by_position_and_name_with_fixed_values() -> None:
    kwargs = {"pair": {"a": torch.ones(3), "b": [torch.ones(1)]}, "mask": torch.ones(2, 3)}
    structure = capture(Nested("tensor").eval(), (X, 0.5), kwargs=kwargs).structure
    assert structure.args == (Ref(0), 0.5)
    assert structure.kwargs == {"pair": {"a": Ref(1), "b": [Ref(2)]}, "mask": Ref(3)}


def test_dict_with_keys_that_are_no_strings() -> None:
    with pytest.raises(UnsupportedModelError, match=r"a dict has the keys \[1\], needs strings"):
        capture(Nested("numbers").eval(), (X,))


def test_model_output_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    model = transformers.BertModel(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    graph = capture(model, kwargs={"input_ids": ids})
    assert graph.structure.kwargs == {"input_ids": Ref(0)}
    assert graph.structure.returns == {"last_hidden_state": Ref(0), "pooler_output": Ref(1)}
    rebuilt = rebuild_output(graph.structure, [X, X])
    assert type(rebuilt) is type(model(ids))
    assert rebuilt.pooler_output is X
