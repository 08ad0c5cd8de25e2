"""Inputs that the pass manager makes up."""

from __future__ import annotations

import torch

import graphopt
from graphopt.ir.parser import parse
from graphopt.pipeline.probes import plant_special_values, probe_dims, random_inputs


def test_integers_stay_inside_what_they_index() -> None:
    graph = graphopt.parse("""graph g(%ids: i64[64], %mask: i64[64], %pick: i32[8]) {
      param %table: f32[5,2]
      param %small: f32[3,2]
      %shaped: i64[8,8] = reshape(%ids) {shape=(8, 8)}
      %e: f32[8,8,2] = embedding(%table, %shaped) {padding_idx=none}
      %s: f32[64,2] = embedding(%small, %ids) {padding_idx=none}
      %g: f32[8,2] = index_select(%table, %pick) {axis=0}
      return %e, %s, %g, %mask
    }""")
    ids, mask, pick = random_inputs(graph)
    assert ids.max() == 2
    assert set(mask.tolist()) == {0, 1}
    assert pick.dtype == torch.int32
    assert pick.max() <= 4
    assert all(torch.equal(one, two) for one, two in zip(random_inputs(graph), random_inputs(graph), strict=True))
    assert not torch.equal(random_inputs(graph, seed=1)[0], ids)


def test_symbolic_dimensions_get_small_distinct_sizes_in_their_ranges() -> None:
    text = "graph g(%x: f32[batch,2*length,one]) where batch in [1, 64], length in [0, inf], one in [1, 1] { return %x }"
    graph = parse(text)
    assert probe_dims(graph) == {"batch": 2, "length": 3, "one": 1}
    assert random_inputs(graph)[0].shape == (2, 6, 1)
    assert random_inputs(graph, dims={"batch": 4, "length": 1, "one": 1})[0].shape == (4, 2, 1)


def test_special_values_are_planted_into_copies_of_floats() -> None:
    inputs = (torch.ones(16), torch.ones(3, dtype=torch.int64), torch.ones(0))
    planted = plant_special_values(inputs)
    assert planted[0].isnan().sum() == 1
    assert planted[0].isinf().sum() == 2
    assert torch.equal(inputs[0], torch.ones(16))
    assert planted[1] is inputs[1]


def test_every_dtype_has_inputs() -> None:
    graph = parse("graph g(%a: f16[2], %b: bf16[2], %c: bool[2], %d: u8[2], %e: c64[2], %f: f64[]) { return %a }")
    dtypes = [torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.complex64, torch.float64]
    assert [tensor.dtype for tensor in random_inputs(graph)] == dtypes
