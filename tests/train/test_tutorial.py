"""docs/tutorial.md runs; what it prints has the page's words, and numbers near the page's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(python|text about)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?=(?: (ms|times))?)")


def words(text: str) -> list[str]:
    """Lines with numbers left out, and runs of spaces as one."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines()]


def numbers(text: str) -> list[float]:
    """All but times, which are those of the machine, and what is right between one step and its recovery, which rounding moves."""
    lasting = "\n".join(line for line in text.splitlines() if not line.startswith("sparse: "))
    return [float(found[0]) for found in NUMBER.finditer(lasting) if found[1] is None]


def compare(printed: str, page: str) -> None:
    assert words(printed) == words(page)
    for here, there in zip(numbers(printed), numbers(page), strict=True):
        assert abs(here - there) <= max(0.1 * there, 0.05), (here, there)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn, which has the data, is not installed")
def test_the_tutorial_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 8
    program = tmp_path / "tutorial.py"
    program.write_text("\n".join(text for kind, text in blocks if kind == "python"))
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    expected = [text for kind, text in blocks if kind != "python"]
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")) and "no compiler: " in run.stdout:
        expected[-1] = next(line for line in run.stdout.splitlines(keepends=True) if line.startswith("no compiler: "))
    compare(run.stdout, "".join(expected))


def test_times_are_not_compared_and_other_numbers_nearly() -> None:
    compare("dense:  96.1 % right, 0.73 of 75210\nfast: 9.1 ms, 5.55 times", "dense: 97.5 % right, 0.70 of 75210\nfast: 0.1 ms, 1.25 times")
    for other in ("dense: 80.1 % right", "shrunk: 97.5 % right", "dense: 97.5 % right, 0.1 ms"):
        with pytest.raises(AssertionError):
            compare(other, "dense: 97.5 % right")
