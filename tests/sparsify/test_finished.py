"""Passes that work layer by layer go on behind the last finished layer after a kill, and end with the same bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graphopt
from graphopt.analysis.table import counted
from graphopt.errors import UsageError
from graphopt.passes import finished
from tests.support.killed_pass import bits, data, files, graph, kill, model, one_thread, run

__all__ = ["one_thread"]


def notes(result: graphopt.Result) -> list[str]:
    record = result.pipeline.records[0]
    assert record.status == "applied", record.exception
    return [note for note in record.notes if not re.search(r"0\.\d{4} of \d", note)]  # without zeros of layers


@pytest.mark.parametrize(
    ("pass_", "number"),
    [
        ("sparsify-obs{ratio=0.6}", 4),
        ('sparsify-obs{pattern="2:4"}', 3),
        ('sparsify-wanda{ratio=0.6, pattern="4x1", ratios="sensitivity"}', 2),
    ],
)
def test_a_killed_pass_goes_on_and_ends_with_the_same_bits(pass_: str, number: int, tmp_path: Path) -> None:
    kill(pass_, tmp_path, f", {number} of ")
    before = files(tmp_path)
    layers = [name for name in before if "sensitivity" not in name]
    assert [name.rpartition("/")[2] for name in layers] == [f"layer-0000{done}.safetensors" for done in range(1, number)]
    assert sum("sensitivity" in name for name in before) == (5 if "sensitivity" in pass_ else 0)

    whole, resumed = run(pass_, None), run(pass_, tmp_path)
    assert bits(resumed) == bits(whole)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before  # nothing of it was computed again
    assert len(after) > len(before)
    assert notes(resumed)[-1].startswith(
        f"{counted(number - 1, 'finished part')} {'was' if number == 2 else 'were'} read from {tmp_path / pass_.partition('{')[0]}-"
    )
    again = run(pass_, tmp_path)
    assert bits(again) == bits(whole)
    assert files(tmp_path) == after


def test_other_weights_data_or_options_start_anew(tmp_path: Path) -> None:
    first = run("sparsify-obs{ratio=0.6}", tmp_path)
    assert notes(first) == []
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("sparsify-obs{ratio=0.6}", {"seed": 1}, "weights"),
        ("sparsify-obs{ratio=0.6}", {"data_seed": 1}, "data"),
        ("sparsify-obs{ratio=0.5}", {}, "options"),
        ("sparsify-obs{ratio=0.7}", {"seed": 2, "data_seed": 2}, "options and weights and data"),
    )
    for pass_, seeds, differs in cases:
        result = run(pass_, tmp_path, **seeds)
        assert notes(result) == [f"started anew: what {tmp_path} holds of sparsify-obs was made with other {differs}"]
        assert bits(result) == bits(run(pass_, None, **seeds))
    assert notes(run("sparsify-wanda{ratio=0.6}", tmp_path)) == []  # a pass that was not there yet
    assert notes(run("sparsify-obs{ratio=0.6}", tmp_path))[0].startswith("5 finished parts were read from ")


def test_what_another_version_made_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_, said = "sparsify-obs{ratio=0.6}", f"started anew: what {tmp_path} holds of sparsify-obs was made with "
    run(pass_, tmp_path)
    (tmp_path / "sparsify-obs-sensitivity-0000000000000000-0000000000000000-0000000000000000").mkdir()  # of another pass
    before = files(tmp_path)
    monkeypatch.setattr(finished, "graphopt_version", lambda: "99.0")
    assert notes(run(pass_, tmp_path)) == [f"{said}another version of graphopt"]
    assert len(files(tmp_path)) == 2 * len(before)
    monkeypatch.setattr(finished, "graphopt_version", lambda: "99.1")
    assert notes(run(pass_, tmp_path, data_seed=1)) == [f"{said}other data and another version of graphopt"]
    monkeypatch.undo()
    assert notes(run(pass_, tmp_path))[0].startswith("5 finished parts were read from ")


def test_a_folder_without_a_version_is_not_read(tmp_path: Path) -> None:
    run("sparsify-obs{ratio=0.6}", tmp_path)
    (folder,) = tmp_path.iterdir()
    folder.rename(folder.with_name(folder.name.rpartition("-")[0]))
    said = f"started anew: what {tmp_path} holds of sparsify-obs was made with another version of graphopt"
    assert notes(run("sparsify-obs{ratio=0.6}", tmp_path)) == [said]


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return content[:0]


def overwritten(content: bytes) -> bytes:
    return b"\xff" * len(content)


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten])
def test_a_damaged_file_is_computed_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    expected = bits(run("sparsify-obs{ratio=0.6}", tmp_path))  # read before the files that they are mapped from change
    (file,) = tmp_path.glob("*/layer-00002.safetensors")
    good = file.read_bytes()
    file.write_bytes(damage(good))
    left_over = file.with_name(f"{file.name}.123.part")  # of a process that was killed while it wrote
    left_over.write_bytes(good[:100])
    resumed = run("sparsify-obs{ratio=0.6}", tmp_path)
    assert bits(resumed) == expected
    read, again = notes(resumed)
    assert read.startswith("4 finished parts were read from ")
    assert again.startswith(f"computed again: checkpoint {file} can't be read: ")
    assert not left_over.exists()
    assert notes(run("sparsify-obs{ratio=0.6}", tmp_path))[0].startswith("5 finished parts were read from ")


def test_folders_are_listed_as_often_for_many_parts_as_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[int] = []
    glob = Path.glob

    def counting(path: Path, pattern: str) -> Iterator[Path]:
        listed[-1] += 1
        return iter(glob(path, pattern))

    monkeypatch.setattr(Path, "glob", counting)
    for only in ('"6"', '"*"'):
        listed.append(0)
        run(f"sparsify-obs{{ratio=0.6, only=({only},)}}", tmp_path / str(len(listed)))
    monkeypatch.undo()
    assert [len(files(tmp_path / str(number))) for number in (1, 2)] == [1, 5]
    assert listed[0] == listed[1]


def test_weaker_trials_have_files_of_their_own(tmp_path: Path) -> None:
    """A budget relaxes the ratio: what was measured of the layers serves all ratios, and all trials are there after a kill."""
    x = torch.cat(data())
    wanted = model()(x)

    def closeness(module: torch.nn.Module) -> float:
        with torch.no_grad():
            return -float((module(x) - wanted).norm() / wanted.norm())

    def held() -> graphopt.Result:
        return graphopt.optimize(
            graph(),
            ['sparsify-obs{ratio=0.9, ratios="sensitivity"}'],
            check="off",
            calibration=data(),
            metric=closeness,
            budget=graphopt.Budget(metric_drop=0.2, tries=2),
            checkpoint=tmp_path,
        )

    first = held()
    assert len(first.pipeline.records[0].trials) == 3
    assert len(list(tmp_path.glob("sparsify-obs-sensitivity-*"))) == 1
    assert len(list(tmp_path.glob("sparsify-obs-*"))) == 4
    before = files(tmp_path)
    assert bits(held()) == bits(first)
    assert files(tmp_path) == before


def test_a_folder_that_cant_be_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"checkpoint .*no/way can't be made: No such file or directory\n  fix: give a folder, in one that exists"
    ):
        run("sparsify-obs", tmp_path / "no" / "way")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"checkpoint .*file can't be made: File exists"):
        run("sparsify-obs", tmp_path / "file")
