from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphopt.errors import ArtifactError, PassError
from graphopt.ir.parser import parse
from graphopt.passes.shrink.compensation import compensate
from graphopt.passes.shrink.replay_shrink import ReplayShrink
from graphopt.pipeline.calibration import calibration_from
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.recording import run_outputs
from graphopt.rewrite.cut import save_records
from graphopt.rewrite.rewriter import Rewriter
from tests.support.cutting import cut_group, group_of
from tests.support.folding import filled, largest_difference

BEFORE = """graph g(%x: f32[2,4]) {
  param %first: f32[6,4]
  param %second: f32[3,6]
  %a: f32[2,6] = linear(%x, %first, none)
  %y: f32[2,3] = linear(%a, %second, none)
  return %y
}
"""
AFTER = """graph g(%x: f32[2,4]) {
  param %first: f32[3,4]
  param %second: f32[3,3]
  %a: f32[2,3] = linear(%x, %first, none)
  %y: f32[2,3] = linear(%a, %second, none)
  return %y
}
"""
WIDE = """graph g(%x: f32[256,4]) {
  param %first: f32[6,4]
  param %second: f32[3,6]
  %a: f32[256,6] = linear(%x, %first, none)
  %b: f32[256,6] = relu(%a)
  %y: f32[256,3] = linear(%b, %second, none)
  return %y
}
"""
MEMBERS = (("first", 0), ("a", 1), ("second", 1))
WIDE_MEMBERS = (("first", 0), ("a", 1), ("b", 1), ("second", 1))


def test_two_cuts_are_made_again_on_another_checkpoint(tmp_path: Path) -> None:
    graph, other, expected = filled(BEFORE), filled(BEFORE, seed=5), filled(BEFORE, seed=5)
    records = [cut_group(graph, group_of(graph, 6, MEMBERS), (0, 3)), cut_group(graph, group_of(graph, 4, MEMBERS), (2,))]
    save_records(records, tmp_path / "cuts.json")
    for size, gone in ((6, (0, 3)), (4, (2,))):
        cut_group(expected, group_of(expected, size, MEMBERS), gone)
    result = PassManager([ReplayShrink(path=str(tmp_path / "cuts.json"))], strict=True).run(other)
    assert str(result.graph) == AFTER
    assert largest_difference(expected, result.graph) == 0
    assert result.records[0].notes == (f"3 units of 1 group taken out as recorded in {tmp_path / 'cuts.json'}",)
    assert result.shrinks == tuple(records)


def test_layers_make_up_for_the_cuts_on_the_data_of_the_other_checkpoint(tmp_path: Path) -> None:
    recorded, other, plain, expected = filled(WIDE), filled(WIDE, seed=5), filled(WIDE, seed=5), filled(WIDE, seed=5)
    original = filled(WIDE, seed=5)
    data = calibration_from(other, torch.randn(256, 4, generator=torch.Generator().manual_seed(1)))
    context = Context(calibration=data)
    save_records([cut_group(recorded, group_of(recorded, 6, WIDE_MEMBERS), (0, 3))], tmp_path / "cuts.json")

    record = cut_group(expected, group_of(expected, 6, WIDE_MEMBERS), (0, 3))
    compensate(Rewriter(expected), original, record, context, "least-squares")
    cut_group(plain, group_of(plain, 6, WIDE_MEMBERS), (0, 3))

    replay = ReplayShrink(path=str(tmp_path / "cuts.json"), compensation="least-squares")
    outcome = replay.apply_with(Rewriter(other), context)
    assert "compensation (least-squares) of 1 layer: outputs on held-out samples are off by" in outcome.notes[1]
    assert largest_difference(expected, other) == 0
    x = next(iter(data)).inputs
    wanted, *found = (run_outputs(graph, x, precise=True)[0] for graph in (original, other, plain))
    fitted, cut = (float((output - wanted).square().sum()) for output in found)
    assert fitted < 0.9 * cut

    without = replay.run(filled(WIDE, seed=5))
    assert without.notes[1] == "no compensation: 'least-squares' needs calibration data, pass it as optimize(..., calibration=loader)"


def test_another_model_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    graph = filled(BEFORE)
    save_records([cut_group(graph, group_of(graph, 6, MEMBERS), (0,))], tmp_path / "cuts.json")
    with pytest.raises(PassError, match=r"the cut is of a %first that was f32\[6,4\], here it is f32\[5,4\]: axis 0 differs"):
        ReplayShrink(path=str(tmp_path / "cuts.json")).run(parse(BEFORE.replace("6", "5")))
    with pytest.raises(ArtifactError, match=r"nothing\.json can't be read"):
        ReplayShrink(path=str(tmp_path / "nothing.json")).run(filled(BEFORE))
