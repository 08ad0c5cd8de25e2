"""`graphopt show --sparsity`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from graphopt.analysis.sparsity_picture import picture
from graphopt.cli.app import app
from graphopt.ir.store import save_graph
from graphopt.passes.sparsify.sparsify_block import SparsifyBlock
from graphopt.passes.sparsify.sparsify_n_m import SparsifyNM
from tests.support.sparsifying import network, run_pass


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown") / "network"
    graph = network()
    run_pass(SparsifyBlock(ratio=0.75, only=("grouped",)), graph)
    run_pass(SparsifyNM(only=("fc",)), graph)
    save_graph(graph, folder)
    return folder


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["show", "--sparsity", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_table_and_totals(saved: Path) -> None:
    lines = shown(str(saved)).splitlines()
    assert lines[0].split() == ["parameter", "type", "zeros", "zero", "rows", "pattern", "annotation", "memory", "saved"]
    assert " ".join(next(line for line in lines if line.startswith("grouped.weight")).split()) == (
        "grouped.weight f32[16,8,3,3] 0.7500 0 block 4x1 0.7500 block 4x1 0.7500 4.61 kB 1.30 kB"
    )
    assert "2:4 axis=1 0.5000" in next(line for line in lines if line.startswith("fc.weight"))
    assert lines[-1] == "0.3591 of 2540 weights are zero: 10.16 kB in memory, 6.67 kB when saved"


def test_pictures_of_chosen_parameters(saved: Path) -> None:
    output = shown(str(saved), "--name", "fc.*")
    assert "fc.weight: output channels down, inputs and taps across; blank is zero, █ is dense" in output
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert len(rows) == 12
    assert all(line.count("█") == 4 and line.count(" ") == 4 for line in rows)


def test_json_and_names_that_match_nothing(saved: Path) -> None:
    document = json.loads(shown(str(saved), "--json"))
    found = {state["name"]: state for state in document["states"]}
    assert found["grouped.weight"]["annotation"] == "sparse<block 4x1 0.75>"
    assert found["grouped.weight"]["bytes"] == {"memory": 4608, "disk": 1296}
    assert document["total"]["elements"] == 2540
    result = CliRunner().invoke(app, ["show", "--sparsity", str(saved), "--name", "nothing"])
    assert result.exit_code != 0


def test_shades() -> None:
    weight = torch.zeros(4, 8)
    weight[:2, :4] = 1
    weight[0, 4:6] = 1
    weight[3, 7] = 1
    assert picture(weight, 2, 2) == ("█░", " ·")
    assert picture(weight, 64, 16)[0] == "██████  "
    assert picture(torch.zeros(0, 3)) == ()
