from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import ArtifactError, PassError
from graphopt.ir.parser import parse
from graphopt.passes.shrink.replay_shrink import ReplayShrink
from graphopt.pipeline.manager import PassManager
from graphopt.rewrite.cut import save_records
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
MEMBERS = (("first", 0), ("a", 1), ("second", 1))


def test_two_cuts_are_made_again_on_another_checkpoint(tmp_path: Path) -> None:
    graph, other, expected = filled(BEFORE), filled(BEFORE, seed=5), filled(BEFORE, seed=5)
    records = [cut_group(graph, group_of(graph, 6, MEMBERS), (0, 3)), cut_group(graph, group_of(graph, 4, MEMBERS), (2,))]
    save_records(records, tmp_path / "cuts.json")
    for size, gone in ((6, (0, 3)), (4, (2,))):
        cut_group(expected, group_of(expected, size, MEMBERS), gone)
    result = PassManager([ReplayShrink(path=str(tmp_path / "cuts.json"))], strict=True).run(other)
    assert str(result.graph) == AFTER
    assert largest_difference(expected, result.graph) == 0
    assert result.records[0].notes == (f"3 units of 1 groups taken out as recorded in {tmp_path / 'cuts.json'}",)
    assert result.shrinks == tuple(records)


def test_another_model_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    graph = filled(BEFORE)
    save_records([cut_group(graph, group_of(graph, 6, MEMBERS), (0,))], tmp_path / "cuts.json")
    with pytest.raises(PassError, match=r"the cut is of a %first that was f32\[6,4\], here it is f32\[5,4\]: axis 0 differs"):
        ReplayShrink(path=str(tmp_path / "cuts.json")).run(parse(BEFORE.replace("6", "5")))
    with pytest.raises(ArtifactError, match=r"nothing\.json can't be read"):
        ReplayShrink(path=str(tmp_path / "nothing.json")).run(filled(BEFORE))
