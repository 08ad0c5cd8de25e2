"""Calibration data: every form that users have it in, in the graph's order, and what is said about data that does not fit."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.calibration import Batch, Calibration, calibration_from

IMAGES = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5


class Encoder(nn.Module):
    """Token ids and a mask, in the manner of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.table(input_ids).mul(attention_mask[..., None]).mean(1) * scale


class TakesDict(nn.Module):
    """One argument, which is a dict."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["x"] + batch["y"]


@pytest.fixture(scope="module")
def single() -> Graph:
    """One image at a time."""
    return graphopt.capture(nn.Conv2d(3, 4, 3).eval(), (IMAGES[:1],))


@pytest.fixture(scope="module")
def batched() -> Graph:
    """Any number of images."""
    return graphopt.capture(nn.Conv2d(3, 4, 3).eval(), (IMAGES[:2],), dynamic={"input": {0: "batch"}})


IDS = torch.arange(12).reshape(2, 6) % 11
MASK = torch.ones(2, 6)


@pytest.fixture(scope="module")
def encoder() -> Graph:
    return graphopt.capture(Encoder().eval(), kwargs={"input_ids": IDS, "attention_mask": MASK})


def _same(found: Calibration, inputs: list[torch.Tensor], targets: list[torch.Tensor] | None = None) -> None:
    assert len(found) == len(inputs)
    for index, (batch, wanted) in enumerate(zip(found, inputs, strict=True)):
        assert torch.equal(batch.inputs[0], wanted)
        if targets is None:
            assert batch.target is None
        else:
            assert batch.target is not None
            assert torch.equal(batch.target, targets[index])


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
        [(IMAGES[:4], LABELS[:4]), [IMAGES[4:8], LABELS[4:8]], {"input": IMAGES[8:], "labels": LABELS[8:]}],
        [((IMAGES[:4],), LABELS[:4].tolist()), ({"input": IMAGES[4:8]}, LABELS[4:8]), (IMAGES[8:].numpy(), LABELS[8:].numpy())],
        ((image, label) for image, label in zip(IMAGES.split(4), LABELS.split(4), strict=True)),
    ],
    ids=["loader", "pairs", "nested", "generator"],
)
def test_forms_with_labels(batched: Graph, data: object) -> None:
    _same(calibration_from(batched, data), list(IMAGES.split(4)), list(LABELS.split(4)))


@pytest.mark.parametrize("data", [IMAGES, [IMAGES], (IMAGES,), {"input": IMAGES}, [IMAGES.numpy()], UserDict(input=IMAGES)])
def test_one_batch_without_labels_and_no_copy(batched: Graph, data: object) -> None:
    found = calibration_from(batched, data)
    _same(found, [IMAGES])
    assert next(iter(found)).inputs[0].data_ptr() == IMAGES.data_ptr()
    assert calibration_from(batched, found) is found
    assert repr(found) == "<Calibration: 12 samples in 1 batch>"


def test_arguments_by_name_as_language_models_have_them(encoder: Graph) -> None:
    item = {"labels": torch.tensor([0, 1]), "attention_mask": MASK, "input_ids": IDS}
    for data in (item, [item], [(IDS, MASK)] if encoder.structure.args else [item]):
        batch = next(iter(calibration_from(encoder, data)))
        by_name = dict(zip((value.name for value in encoder.inputs), batch.inputs, strict=True))
        assert torch.equal(by_name["input_ids"], IDS)
        assert torch.equal(by_name["attention_mask"], MASK)
    with pytest.raises(
        UsageError, match=r"calibration batch 0: key 'token_type_ids' is none of the model's arguments, which are .*input_ids"
    ):
        calibration_from(encoder, [{**item, "token_type_ids": IDS}])
    with pytest.raises(
        UsageError, match=r"calibration batch 1: key 'attention_mask' is missing, got input_ids\n  fix: add it to the batch"
    ):
        calibration_from(encoder, [item, {"input_ids": IDS}])


def test_positional_arguments_and_a_dict_as_the_argument() -> None:
    two = graphopt.capture(Encoder().eval(), (IDS, MASK))
    batch = next(iter(calibration_from(two, [(IDS, MASK, torch.tensor([1, 2]))])))
    assert torch.equal(batch.inputs[1], MASK)
    assert batch.target is not None
    assert batch.target.tolist() == [1, 2]
    assert next(iter(calibration_from(two, [{"input_ids": IDS, "attention_mask": MASK}]))).target is None
    packed = {"x": torch.ones(2, 3), "y": torch.zeros(2, 3)}
    graph = graphopt.capture(TakesDict().eval(), (packed,))
    for data in ([packed], [(packed, torch.tensor([0, 1]))]):
        assert [tensor.tolist() for tensor in next(iter(calibration_from(graph, data))).inputs] == [[[1.0] * 3] * 2, [[0.0] * 3] * 2]


def test_batches_are_cut_to_the_rows_that_were_captured(single: Graph) -> None:
    found = calibration_from(single, [(IMAGES[:5], LABELS[:5])])
    _same(found, list(IMAGES[:5].split(1)), list(LABELS[:5].split(1)))
    assert found.notes == ("calibration batches of 5 rows were cut into 5 of 1, with which the graph was captured",)
    pairs = graphopt.capture(nn.Conv2d(3, 4, 3).eval(), (IMAGES[:2],))
    assert [batch.inputs[0].shape[0] for batch in calibration_from(pairs, [IMAGES[:5], IMAGES[:1]])] == [2, 2]
    with pytest.raises(UsageError, match="no batch that fits: its batches have 1 row, the graph was captured with 2"):
        calibration_from(pairs, [IMAGES[:1]])


def test_the_limit_is_in_samples_and_takes_nothing_more(batched: Graph, single: Graph) -> None:
    taken: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            taken.append(len(taken))
            yield IMAGES[:4]

    assert calibration_from(batched, endless(), limit=8).samples == 8
    assert taken == [0, 1]
    assert calibration_from(single, [IMAGES], limit=3).samples == 3
    trimmed = calibration_from(batched, IMAGES, limit=5)
    assert (trimmed.samples, trimmed.notes[0]) == (5, "of a calibration batch of 12 rows the first 5 were used: calibration_samples is 5")
    last = calibration_from(batched, [IMAGES[:4], IMAGES[4:]], limit=7)
    assert [len(batch.inputs[0]) for batch in last] == [4, 3]
    with pytest.raises(UsageError, match="calibration_samples is 0, needs at least 1"):
        calibration_from(batched, IMAGES, limit=0)


def test_a_shuffling_loader_gives_the_same_batches_each_time_and_leaves_torch_alone(batched: Graph) -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4, shuffle=True)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = calibration_from(batched, loader)
    assert torch.equal(torch.rand(1), expected)
    second = calibration_from(batched, loader)
    _same(second, [batch.inputs[0] for batch in first], [batch.target for batch in first if batch.target is not None])


def test_data_that_was_read_for_another_graph_is_checked_too(batched: Graph, single: Graph) -> None:
    data = calibration_from(batched, IMAGES)
    assert calibration_from(batched, data) is data
    with pytest.raises(UsageError, match=r"calibration batch 0: input 0 \(%input\) is f32\[12,3,4,4\], needs f32\[1,3,4,4\]"):
        calibration_from(single, data)


def test_an_additive_attention_mask_is_no_damaged_data() -> None:
    graph = graphopt.parse("""graph masked(%x: f32[2,4], %mask: f32[2,4]) {
      %y: f32[2,4] = add(%x, %mask)
      return %y
    }""")
    mask = torch.zeros(2, 4).masked_fill(torch.tensor([False, False, True, True]), float("-inf"))
    assert calibration_from(graph, [(torch.ones(2, 4), mask)]).samples == 2
    with pytest.raises(UsageError, match="input %x has 4 NaN or infinite values"):
        calibration_from(graph, [(torch.ones(2, 4) + mask, mask)])


def _spent() -> Iterator[torch.Tensor]:
    generator = iter([IMAGES])
    next(generator)
    return generator


def _raising() -> Iterator[torch.Tensor]:
    yield IMAGES
    raise OSError("disk is gone")


def _with(value: float) -> torch.Tensor:
    tensor = IMAGES.clone()
    tensor[1, 2, 0, 3] = value
    tensor[2, 0, 0, 0] = value
    return tensor


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "calibration data is empty: no batch came out of the list\n  fix: give at least one batch"),
        (_spent(), "calibration data is empty: .*\n  fix: a generator can be gone through once, and this one is at its end"),
        (_raising(), "calibration data raised OSError at batch 1: disk is gone"),
        (
            [IMAGES, IMAGES.double()],
            r"calibration batch 1: input 0 \(%input\) is f64\[12,3,4,4\], needs f32\[batch,3,4,4\]\n  fix: give batches",
        ),
        ([IMAGES[:, :2]], r"calibration batch 0: input 0 \(%input\) is f32\[12,2,4,4\], needs f32\[batch,3,4,4\]"),
        ([IMAGES[0]], r"calibration batch 0: input 0 \(%input\) is f32\[3,4,4\], needs"),
        ([IMAGES, _with(float("nan"))], r"batch 1: input %input has 2 NaN or infinite values among 576, the first at \(1, 2, 0, 3\)"),
        ([_with(float("inf"))], "batch 0: input %input has 2 NaN or infinite values"),
        ([IMAGES.to("meta")], "calibration batch 0: .* on the meta device, needs dense numbers"),
        ([3], r"calibration batch 0: input %input is a int, needs a tensor"),
        ([(IMAGES, IMAGES, IMAGES)], "calibration batch 0: got 3 positional arguments, needs 1"),
        (TensorDataset(IMAGES), "the dataset TensorDataset, which gives samples.*\n  fix: pass torch.utils.data.DataLoader"),
        ("images/", "calibration data is a str, needs a DataLoader"),
        (7, "calibration data is a int, needs a DataLoader"),
    ],
)
def test_data_that_does_not_fit_is_named(batched: Graph, data: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        calibration_from(batched, data)

    assert re.search(message, str(caught.value)), str(caught.value)


def test_labels_that_are_no_tensor_are_left_out(batched: Graph) -> None:
    boxes = [{"boxes": torch.zeros(1, 4)}] * 12
    assert next(iter(calibration_from(batched, [(IMAGES, boxes)]))).target is None
    scalars = next(iter(calibration_from(batched, [(IMAGES, numpy.arange(12))]))).target
    assert scalars is not None
    assert scalars.tolist() == list(range(12))
    assert isinstance(next(iter(calibration_from(batched, IMAGES))), Batch)
