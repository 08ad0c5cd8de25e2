"""Saving what a pipeline took out, replaying it on another checkpoint, and being told what is missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import graphopt
from graphopt.analysis.table import counted
from graphopt.errors import GraphoptWarning, PassError, UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.rewrite.cut import CutRecord, PartRecord, load_records, replay
from tests.support.folding import filled, largest_difference

CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
BLOCKS = f"""graph g(%x: f32[2,3,8,8]) {{
  param %stem.weight: f32[8,3,3,3]
  param %mid.weight: f32[8,8,3,3]
  param %one.weight: f32[8,8,3,3]
  buffer %one.calls: i64[]
  param %two.weight: f32[8,8,3,3]
  param %head.weight: f32[5,8]
  %s: f32[2,8,8,8] = conv2d(%x, %stem.weight, none) {CONV}
  %m: f32[2,8,8,8] = conv2d(%s, %mid.weight, none) {CONV}
  %c1: f32[2,8,8,8] = conv2d(%m, %one.weight, none) {CONV}
  %a1: f32[2,8,8,8] = add(%m, %c1)
  %r1: f32[2,8,8,8] = relu(%a1)
  %c2: f32[2,8,8,8] = conv2d(%r1, %two.weight, none) {CONV}
  %a2: f32[2,8,8,8] = add(%r1, %c2)
  %r2: f32[2,8,8,8] = relu(%a2)
  %pool: f32[2,8] = mean(%r2) {{axes=(2, 3), keepdims=false}}
  %y: f32[2,5] = linear(%pool, %head.weight, none)
  return %y
}}
"""
DATA = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def _optimize(graph: Graph, *passes: str) -> graphopt.Result:
    return graphopt.optimize(graph, list(passes), calibration=DATA, check="off", strict=True)


@pytest.mark.parametrize("removal", ["remove-blocks{count=1}", "remove-blocks{count=2}", "remove-layers{count=1}"])
def test_removed_parts_and_cuts_go_from_another_checkpoint_too(removal: str, tmp_path: Path) -> None:
    result = _optimize(filled(BLOCKS), removal, "shrink-channels{ratio=0.5}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.save_shrinks(tmp_path / "cuts.json")
    records = load_records(tmp_path / "cuts.json")
    assert records == result.shrinks
    assert [len(record.parts) for record in records] == [int(removal[-2]), 0]
    other = filled(BLOCKS, seed=5)
    replayed = _optimize(other, f'replay-shrink{{path="{tmp_path / "cuts.json"}"}}')
    assert str(replayed.graph) == str(result.graph)
    units = sum(count for count, _ in records[1].groups.values())
    parts = counted(int(removal[-2]), "block or layer", "blocks or layers")
    note = f"{counted(units, 'unit')} of {counted(len(records[1].groups), 'group')} and {parts} taken out as recorded in "
    assert replayed.pipeline.records[0].notes[0].startswith(note)
    by_hand = other
    for record in records:
        by_hand = replay(by_hand, record)
    assert largest_difference(by_hand, replayed.graph) == 0


def test_a_part_that_is_not_there_is_refused() -> None:
    record = CutRecord.of_parts([PartRecord("a1", "m", "r1")])
    with pytest.raises(PassError, match="the part 'a1' was between %m and %r1, and the graph 'g' has no %r1\n  fix: replay it on the same"):
        replay(parse(BLOCKS.replace("%r1", "%other")), record)
    with pytest.raises(PassError, match=r"the part 'a1' was between %r2 and %c1, here %c1: f32\[2,8,8,8\] can't be replaced by %r2: f32"):
        replay(parse(BLOCKS), CutRecord.of_parts([PartRecord("a1", "r2", "c1")]))
    with pytest.raises(PassError, match=r"here %s: f32\[2,8,8,8\] can't be replaced by %x: f32\[2,3,8,8\]"):
        replay(parse(BLOCKS), CutRecord.of_parts([PartRecord("s", "x", "s")]))


def test_passes_that_leave_no_record_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cuts.json"
    result = _optimize(filled(BLOCKS), "shrink-kernels{energy=0.9}", "shrink-channels{ratio=0.5}", "lossless")
    assert result.pipeline.unrecorded == ("shrink-kernels{energy=0.9}",)
    assert result.report.to_json()["unrecorded"] == ["shrink-kernels{energy=0.9}"]
    text = (
        r"not in .*cuts\.json: what shrink-kernels\{energy=0\.9\} changed, so run that too where the file is replayed, in the same order$"
    )
    with pytest.warns(GraphoptWarning, match=text):
        result.save_shrinks(path)
    assert load_records(path) == result.shrinks
    twice = _optimize(
        filled(BLOCKS), "shrink-channels{ratio=0.25}", "sparsify-magnitude", "shrink-channels{ratio=0.25}", "sparsify-magnitude"
    )
    with pytest.warns(
        GraphoptWarning, match="in the same order; sparsify-magnitude ran between cuts: save those before and behind it in files"
    ):
        twice.save_shrinks(path)


def test_nothing_to_save_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no shrink to save: what shrink-kernels\{energy=0\.9\} changed is not recorded"):
        _optimize(filled(BLOCKS), "shrink-kernels{energy=0.9}").save_shrinks(tmp_path / "none.json")
    with pytest.raises(UsageError, match="there is no shrink to save: no pass cut anything"):
        _optimize(filled(BLOCKS), "lossless").save_shrinks(tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()
