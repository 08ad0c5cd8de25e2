"""Records of cuts: as JSON, as files, and replayed on another checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphopt.errors import ArtifactError, PassError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.rewrite.cut import CutRecord, PartRecord, load_records, replay, save_records
from tests.rewrite.cut.cases import CASES, Case
from tests.support.cutting import cut_group, group_of
from tests.support.folding import filled, largest_difference


def _cut(case: Case, seed: int = 0) -> tuple[Graph, CutRecord]:
    graph = filled(case.text, seed)
    return graph, cut_group(graph, group_of(graph, case.size, case.members), case.gone)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_replay_on_another_checkpoint_is_the_same_cut_of_it(case: Case) -> None:
    _, record = _cut(case)
    again = CutRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    other = filled(case.text, seed=7)
    text = str(other)
    replayed = replay(other, again)
    assert str(other) == text
    expected, _ = _cut(case, seed=7)
    assert str(replayed) == str(expected)
    assert largest_difference(expected, replayed) == 0


ATTENTION = next(case for case in CASES if case.name == "attention_loses_features_inside_heads")


def test_the_format_is_stable() -> None:
    _, record = _cut(ATTENTION)
    kept = [0, 2, 3, 4, 6, 7]
    assert record.to_json() == {
        "states": {"wq": {"shape": [8, 4], "kept": {"0": kept}}, "wk": {"shape": [8, 4], "kept": {"0": kept}}},
        "attributes": {"q4": {"shape": "(1, 5, 2, 3)"}, "k4": {"shape": "(1, 5, 2, 3)"}, "y": {"scale": "0.5"}},
        "groups": {"g": [1, 4]},
    }


def test_files(tmp_path: Path) -> None:
    records = [_cut(case)[1] for case in CASES[:3]]
    save_records(records, tmp_path / "cuts.json")
    assert json.loads((tmp_path / "cuts.json").read_text())["version"] == 1
    assert load_records(tmp_path / "cuts.json") == tuple(records)
    records.append(CutRecord.of_parts([PartRecord("layer1", "x", "y")]))
    save_records(records, tmp_path / "cuts.json")
    document = json.loads((tmp_path / "cuts.json").read_text())
    assert document["version"] == 2  # older versions would leave the parts where they are
    assert document["cuts"][-1]["parts"] == [{"name": "layer1", "entry": "x", "exit": "y"}]
    assert load_records(tmp_path / "cuts.json") == tuple(records)


def test_files_that_can_not_be_written(tmp_path: Path) -> None:
    records = [_cut(CASES[0])[1]]
    save_records(records, tmp_path / "new" / "folder" / "cuts.json")
    assert load_records(tmp_path / "new" / "folder" / "cuts.json") == tuple(records)
    with pytest.raises(ArtifactError, match=r"new can't be written: Is a directory\n  fix: name a file in a folder where you may write"):
        save_records(records, tmp_path / "new")
    with pytest.raises(ArtifactError, match="can't be written: "):
        save_records(records, tmp_path / "new" / "folder" / "cuts.json" / "cuts.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cuts.json can't be read: No such file or directory"),
        ("{", "cuts.json is no JSON: "),
        ("[]", "cuts.json holds no record of cuts"),
        ('{"format": "graphopt-cuts", "version": 3, "cuts": []}', "cuts.json is of version 3, this graphopt reads 1 to 2"),
        ('{"format": "graphopt-cuts", "version": 1, "cuts": [{}]}', "cuts.json is damaged: this is no record of a cut: KeyError: 'states'"),
        (
            '{"format": "graphopt-cuts", "version": 1, "cuts": [{"states": {"w": {"shape": [4], "kept": {"0": [2, 1]}}}, '
            '"attributes": {}, "groups": {}}]}',
            r"this is no record of a cut: ValueError: kept positions \[2, 1\] do not rise",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "cuts.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        load_records(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%wq", "%query", "the cut is of %wq, which the graph 'g' does not have\n  fix: replay it on the same model"),
        ("%q4", "%q_4", "the cut is of node %q4, which the graph 'g' does not have\n  fix: replay it on the same model"),
        (
            "%wq: f32[8,4]",
            "%wq: f32[4,8]",
            "the cut is of a %wq that was f32[8,4], here it is f32[4,8]: axis 0 differs\n  fix: replay it on the same model",
        ),
        ("%wq: f32[8,4]", "%wq: f32[8,4,1]", "the cut is of a %wq that was f32[8,4], here it is f32[8,4,1]: the number of axes differs"),
        (
            "%q: f32[1,5,8] = linear(%x, %wq, none)",
            "%q: f32[1,5,8] = aten.mm.default(%x, %wq)",
            "the cut would give aten.mm.default a f32[6,4] as %wq",
        ),
        ("permute(%q4)", "aten.view.default(%q4)", "the cut would give aten.view.default a f32[1,5,2,3] as %q4"),
    ],
)
def test_another_model_is_refused(old: str, new: str, message: str) -> None:
    _, record = _cut(ATTENTION)
    graph = parse(ATTENTION.text.replace(old, new))
    with pytest.raises(PassError) as caught:
        replay(graph, record)
    assert str(caught.value).startswith(message)


def test_attributes_of_a_node_that_is_opaque_now_are_refused() -> None:
    graph = parse("graph g(%x: f32[2,3]) { %y: f32[6] = aten.view.default(%x) return %y }")
    with pytest.raises(PassError, match=r"the cut changes shape of %y, which is aten\.view\.default here\n  at %y.*\n  fix: replay it"):
        replay(graph, CutRecord({}, {}, {"y": {"shape": (5,)}}, {}))


def test_positions_that_are_not_there_are_refused() -> None:
    graph, record = _cut(ATTENTION)
    data = record.to_json()
    data["states"]["wq"]["kept"] = {"1": [0, 4]}
    with pytest.raises(PassError, match=r"the cut keeps position 4 of axis 1 of %wq: f32\[8,4\], which has no such position"):
        replay(parse(ATTENTION.text), CutRecord.from_json(data))
    assert torch.is_tensor(graph.states["wq"].data.tensor())  # pyright: ignore[reportOptionalMemberAccess]
