"""Text survives the way to a graph and back; damaged text is refused with a place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.errors import ParseError
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from tests.support.random_graphs import random_graph
from tools.fuzz_text import check_round_trip, check_text, damaged_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("block", range(4))
def test_random_graphs_survive_text(block: int) -> None:
    for seed in range(block * 150, (block + 1) * 150):
        check_round_trip(seed)


@pytest.mark.parametrize("block", range(8))
def test_damaged_text_is_read_or_refused(block: int) -> None:
    outcomes: set[str] = set()
    for seed in range(block * 250, (block + 1) * 250):
        outcomes.add(check_text(damaged_text(seed)))
    assert outcomes == {"read", "ParseError", "VerifyError"}


def test_every_truncation_is_refused_with_its_last_place() -> None:
    text = show(random_graph(3, nodes=5, symbolic=True)).rstrip()
    lines = text.count("\n") + 1
    for length in range(len(text)):
        with pytest.raises(ParseError, match=r"^line \d+, column \d+: ") as caught:
            parse(text[:length])
        assert caught.value.line <= lines


def test_the_fuzzer_runs_without_torch() -> None:
    command = [sys.executable, "-m", "tools.fuzz_text", "--count", "50", "--graphs", "20", "--seed", "7"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "torch imported: False" in result.stdout
    assert re.search(r"^0 findings$", result.stdout, re.MULTILINE)


def test_same_seed_same_graph_in_every_process() -> None:
    code = (
        "from tests.support.random_graphs import random_graph; print(random_graph(11, 20, True, hostile=True, opaque=True, regions=True))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(texts) == 1
