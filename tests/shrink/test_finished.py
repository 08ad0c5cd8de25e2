"""Shrink passes that work long on data go on behind what is finished after a kill, and end with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graphopt
from graphopt.analysis.table import counted
from tests.support.killed_pass import bits, files, kill, run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads have other bits, and a process that was forked has no threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def notes(result: graphopt.Result, *, of_folder: bool) -> list[str]:
    """What the pass says of the folder, or all else."""
    record = result.pipeline.records[0]
    assert record.status == "applied", record.exception
    return [note for note in record.notes if ("finished part" in note or "started anew" in note) == of_folder]


def names(folder: Path) -> list[str]:
    """Files without the digests in the names of their folders."""
    return [f"{path.parent.name.rsplit('-', 3)[0]}/{path.stem}" for path in sorted(folder.glob("*/*"))]


COMPENSATED = 'shrink-channels{ratio=0.5, compensation="least-squares"}'


@pytest.mark.parametrize(
    ("pass_", "kill_at", "kept"),
    [
        (COMPENSATED, "compensate 8, 4 of", ["compensation/layer-00001", "compensation/layer-00002", "compensation/layer-00003"]),
        (COMPENSATED.replace("least-squares", "bias"), "compensate 4, 2 of", ["compensation/layer-00001"]),
    ],
)
def test_a_killed_pass_goes_on_and_ends_with_the_same_bits(pass_: str, kill_at: str, kept: list[str], tmp_path: Path) -> None:
    kill(pass_, tmp_path, kill_at)
    before = files(tmp_path)
    assert names(tmp_path) == kept

    whole, resumed = run(pass_, None), run(pass_, tmp_path)
    assert bits(resumed) == bits(whole)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before  # nothing of it was computed again
    assert len(after) > len(before)
    assert notes(resumed, of_folder=False) == notes(whole, of_folder=False)
    (note,) = notes(resumed, of_folder=True)
    assert note.startswith(f"{counted(len(kept), 'finished part')} {'was' if len(kept) == 1 else 'were'} read from {tmp_path}/")
    again = run(pass_, tmp_path)
    assert bits(again) == bits(whole)
    assert files(tmp_path) == after


def test_other_weights_data_or_options_are_compensated_anew(tmp_path: Path) -> None:
    assert notes(run(COMPENSATED, tmp_path), of_folder=True) == []
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        (COMPENSATED, {"data_seed": 1}, "data"),
        (COMPENSATED.replace("least-squares", "bias"), {}, "options"),
        (COMPENSATED, {"seed": 1}, ""),
        (COMPENSATED.replace("0.5", "0.25"), {}, ""),  # the graph was cut in another way
    )
    for pass_, seeds, differs in cases:
        result = run(pass_, tmp_path, **seeds)
        said = [f"started anew: what {tmp_path} holds of compensation was made with other {differs}"] if differs else []
        assert notes(result, of_folder=True) == said
        assert bits(result) == bits(run(pass_, None, **seeds))


def test_each_cut_of_several_has_a_folder(tmp_path: Path) -> None:
    steps = COMPENSATED.replace("ratio=0.5", "ratio=0.5, steps=2")
    first = run(steps, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert notes(first, of_folder=True) == []
    before = files(tmp_path)
    assert bits(run(steps, tmp_path)) == bits(first) == bits(run(steps, None))
    assert files(tmp_path) == before
