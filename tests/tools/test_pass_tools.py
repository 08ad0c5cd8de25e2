"""The tools for people who write passes: runner on text, bisection with reduction, scaffold."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import graphopt
from graphopt.errors import UsageError
from graphopt.pipeline.passes import NumericClass, Pass, Stage
from graphopt.pipeline.registry import Repeat, plan
from tests.support.folding import filled
from tests.support.wrong_passes import NETWORK, WRONG_PASSES
from tools.bisect_pass import find_broken_pass, reduce_culprit
from tools.bisect_pass import main as bisect
from tools.graphopt_opt import main as opt
from tools.new_pass import create
from tools.new_pass import main as new_pass

WRONG_FILE = Path(__file__).parents[1] / "support" / "wrong_passes.py"
TEXT = """graph g(%x: f32[4]) {
  %a: f32[4] = neg(%x)
  %b: f32[4] = neg(%a)
  %c: f32[4] = relu(%b)
  return %c
}
"""


# graphopt_opt


def test_text_in_text_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert opt(["-", "-p", "remove-double-inverses, remove-dead-nodes", "--check", "--timing", "--print-after-all", "--report"]) == 0
    out, err = capsys.readouterr()
    assert out == "graph g(%x: f32[4]) {\n  %c: f32[4] = relu(%x)\n  return %c\n}\n"
    assert str(graphopt.parse(out)) == out
    assert "# after remove-double-inverses: applied, 1 rewritten\ngraph g(" in err
    assert "# remove-double-inverses: applied, " in err
    assert "# numbers: rewritten regions after each pass" in err


def test_wrong_passes_and_wrong_text_end_with_their_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.gir"
    file.write_text(NETWORK)
    assert opt([str(file), "-p", f"{WRONG_FILE}:WrongAxis", "--check"]) == 1
    out, err = capsys.readouterr()
    assert out == str(graphopt.parse(NETWORK))
    assert "error: wrong-axis broke its promise (exact)" in err
    assert opt([str(file), "-p", "no-such-pass"]) == 2
    assert "no pass or preset is called 'no-such-pass'" in capsys.readouterr().err
    file.write_text(NETWORK[:200])
    assert opt([str(file)]) == 2
    assert "error: line 6, column" in capsys.readouterr().err
    assert opt([str(tmp_path / "missing.gir")]) == 2


# bisect_pass


@pytest.mark.parametrize("wrong", WRONG_PASSES, ids=repr)
def test_the_wrong_pass_is_found_among_right_ones_and_reduced(wrong: Pass) -> None:
    graph = filled(NETWORK)
    steps = (*plan("tidy"), wrong, *plan("remove-dead-nodes"))
    culprit = find_broken_pass(graph, steps)
    assert culprit is not None
    assert culprit.pass_ is wrong
    small = reduce_culprit(culprit)
    assert small.node_count <= 4
    again = find_broken_pass(small, [wrong])
    assert again is not None


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert find_broken_pass(filled(NETWORK), plan("lossless-training")) is None


def test_a_wrong_pass_inside_a_group_is_found() -> None:
    culprit = find_broken_pass(filled(NETWORK), [Repeat((*plan("remove-dead-nodes"), WRONG_PASSES[1]))])
    assert culprit is not None
    assert culprit.pass_ is WRONG_PASSES[1]


def test_bisection_by_command_writes_a_reproduction_that_fails_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.gir"
    file.write_text(NETWORK)
    passes = f"{WRONG_FILE}:DropBias"
    assert bisect([str(file), "-p", "remove-dead-nodes", "-p", passes, "--reduce", str(tmp_path / "repro")]) == 1
    out = capsys.readouterr().out
    assert "wrong-drop-bias broke its promise" in out
    assert "computed by: %conv" in out
    assert "reduced from 10 to 1 nodes" in out
    assert bisect([str(tmp_path / "repro" / "repro.graph"), "-p", passes]) == 1
    assert bisect([str(tmp_path / "repro" / "repro.gir"), "-p", passes]) == 1
    assert bisect([str(file), "-p", "remove-dead-nodes"]) == 0
    assert bisect([str(tmp_path / "nothing"), "-p", "tidy"]) == 2


# new_pass


def repository(root: Path) -> Path:
    (root / "passes" / "remove").mkdir(parents=True)
    (root / "tests" / "passes").mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        '[project]\nname = "graphopt"\n\n[project.entry-points."graphopt.passes"]\na-pass = "x:A"\nz-pass = "x:Z"\n\n[tool.x]\ny = 1\n'
    )
    return root


def test_a_new_pass_runs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = repository(tmp_path)
    assert new_pass(["merge-relus", "--root", str(root)]) == 0
    assert "merge_relus.py" in capsys.readouterr().out
    specification = importlib.util.spec_from_file_location("merge_relus", root / "passes" / "remove" / "merge_relus.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["merge_relus"] = module
    specification.loader.exec_module(module)
    made = module.MergeRelus()
    graph = graphopt.parse("graph g(%x: f32[2]) { %a: f32[2] = relu(%x) %b: f32[2] = relu(%a) return %b }")
    assert made.run(graph).rewritten == 1
    assert repr(made) == "merge-relus"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert list(project["project"]["entry-points"]["graphopt.passes"]) == ["a-pass", "merge-relus", "z-pass"]
    assert project["tool"]["x"]["y"] == 1
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", str(root)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert new_pass(["merge-relus", "--root", str(root)]) == 2
    assert "exists and is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["relus", "Merge-Relus", "merge_relus", "merge-../x"])
def test_names_that_are_no_verb_and_noun_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="can't name a pass"):
        create(repository(tmp_path), name, numeric=NumericClass.EXACT, stage=Stage.DEPLOY)
