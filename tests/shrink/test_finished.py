"""Shrink passes that work long on data go on behind what is finished after a kill, and end with the same bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import graphopt
from graphopt.analysis.table import counted
from tests.support.killed_pass import bits, data, files, graph, kill, one_thread, run

__all__ = ["one_thread"]


_OF_FOLDER = re.compile(r"\d+ finished parts? |started anew: |computed again: ")


def notes(result: graphopt.Result, *, of_folder: bool) -> list[str]:
    """What the pass says of the folder, or all else."""
    record = result.pipeline.records[0]
    assert record.status == "applied", record.exception
    return [note for note in record.notes if bool(_OF_FOLDER.match(note)) == of_folder]


def names(folder: Path) -> list[str]:
    """Files without the digests in the names of their folders."""
    return [f"{path.parent.name.rsplit('-', 4)[0]}/{path.stem}" for path in sorted(folder.glob("*/*"))]


def numbered(folder: str, name: str, count: int) -> list[str]:
    return [f"{folder}/{name}{number:05}" for number in range(1, count + 1)]


COMPENSATED = 'shrink-channels{ratio=0.5, compensation="least-squares"}'


@pytest.mark.parametrize(
    ("pass_", "blocks", "kill_at", "kept"),
    [
        (COMPENSATED, False, "compensate 8, 4 of", numbered("compensation", "layer-", 3)),
        (COMPENSATED, True, "3 of", numbered("compensation", "layer-", 2)),  # a batch norm among them
        (COMPENSATED.replace("least-squares", "bias"), False, "compensate 4, 2 of", numbered("compensation", "layer-", 1)),
        ('shrink-channels{ratio=0.5, importance="taylor"}', False, "batch 3 of", numbered("importance-taylor", "batch-", 2)),
        ('shrink-channels{ratio=0.5, importance="hessian"}', True, "batch 2 of", numbered("importance-hessian", "batch-", 1)),
        ('shrink-channels{ratio=0.5, importance="activation"}', False, "batch 3 of", numbered("importance-activation", "batch-", 2)),
        ("factor-linear{ratio=0.6}", False, "factor-linear 10, 3 of", numbered("factor-linear", "layer-", 2)),
        ("factor-linear{ratio=0.6, use_data=false}", False, "factor-linear 8, 2 of", numbered("factor-linear", "layer-", 1)),
        ("factor-convolutions{ratio=0.3}", True, "3 of", numbered("factor-convolutions", "layer-", 2)),
        ('shrink-kernels{measure="output", energy=0.9}', True, "4 of", numbered("shrink-kernels", "layer-", 3)),
        ("remove-blocks{count=2}", True, "measuring 3 blocks, batch 3 of", numbered("remove-blocks", "gone-00000-batch-", 2)),
        (
            'remove-blocks{count=2, measure="similarity"}',
            True,
            "measuring 2 blocks, batch 2 of",
            [*numbered("remove-blocks", "gone-00000-batch-", 3), *numbered("remove-blocks", "gone-00001-batch-", 1)],
        ),
    ],
)
def test_a_killed_pass_goes_on_and_ends_with_the_same_bits(pass_: str, blocks: bool, kill_at: str, kept: list[str], tmp_path: Path) -> None:
    kill(pass_, tmp_path, kill_at, blocks=blocks)
    before = files(tmp_path)
    assert names(tmp_path) == kept

    whole, resumed = run(pass_, None, blocks=blocks), run(pass_, tmp_path, blocks=blocks)
    assert whole.pipeline.records[0].rewritten
    assert bits(resumed) == bits(whole)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before  # nothing of it was computed again
    assert len(after) > len(before)
    assert notes(resumed, of_folder=False) == notes(whole, of_folder=False)
    said = f"{counted(len(kept), 'finished part')} {'was' if len(kept) == 1 else 'were'} read from {tmp_path}/"
    assert [note.startswith(said) for note in notes(resumed, of_folder=True)] == [True]
    again = run(pass_, tmp_path, blocks=blocks)
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


IMPORTANCE = 'shrink-channels{ratio=0.5, importance="activation"}'


def test_the_report_says_what_became_of_kept_importance(tmp_path: Path) -> None:
    assert notes(run(IMPORTANCE, tmp_path), of_folder=True) == []
    said = [f"started anew: what {tmp_path} holds of importance-activation was made with other data"]
    assert notes(run(IMPORTANCE, tmp_path, data_seed=1), of_folder=True) == said
    files_of_two = sorted(tmp_path.glob("*/batch-00002.safetensors"))
    assert len(files_of_two) == 2
    for file in files_of_two:
        file.write_bytes(b"")
    read, again = notes(run(IMPORTANCE, tmp_path), of_folder=True)
    assert read.startswith(f"2 finished parts were read from {tmp_path}/importance-activation-")
    assert again.startswith(f"computed again: checkpoint {tmp_path}/importance-activation-")


def test_a_budget_says_what_was_read_of_importance_too(tmp_path: Path) -> None:
    budget = 'shrink-to-budget{flops=0.7, multiple_of=1, importance="taylor"}'
    assert notes(run(budget, tmp_path), of_folder=True) == []
    read = notes(run(budget, tmp_path), of_folder=True)
    assert [re.sub("^.*/|-[0-9a-f]{16}", "", note) for note in read] == ["importance-taylor", "shrink-to-budget"]


@pytest.mark.parametrize(
    ("pass_", "seeded"),
    [
        (IMPORTANCE, False),
        (IMPORTANCE.replace("activation", "taylor"), True),
        (COMPENSATED, True),
        ("remove-blocks{count=1}", False),
        ("factor-linear{ratio=0.6}", False),
        ("factor-convolutions{ratio=0.3}", False),
    ],
)
def test_what_does_not_depend_on_the_seed_is_read_with_another_one(pass_: str, seeded: bool, tmp_path: Path) -> None:
    def with_seed(seed: int, folder: Path | None = tmp_path) -> graphopt.Result:
        network = graph(blocks="remove" in pass_ or "convolutions" in pass_)
        return graphopt.optimize(network, [pass_], check="off", calibration=data(), checkpoint=folder, seed=seed)

    with_seed(0)
    (said,) = notes(with_seed(1), of_folder=True)
    assert said.startswith("started anew: " if seeded else tuple("123456789")), said
    assert bits(with_seed(1)) == bits(with_seed(1, None))


@pytest.mark.parametrize("pass_", ["factor-linear", "factor-convolutions", "shrink-kernels"])
def test_a_graph_without_such_layers_leaves_no_folder(pass_: str, tmp_path: Path) -> None:
    plain = graphopt.parse("graph plain(%x: f32[2,4]) {\n  %y: f32[2,4] = relu(%x)\n  return %y\n}\n")
    result = graphopt.optimize(plain, [pass_], calibration=[torch.ones(2, 4)], checkpoint=tmp_path)
    assert result.pipeline.records[0].status == "unchanged"
    assert list(tmp_path.iterdir()) == []
