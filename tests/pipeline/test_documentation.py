"""The Python of a page of the documentation is one program, and it prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["write-a-pass.md", "shrink.md", "budgets.md", "sparsity.md", "optimize.md", "backends.md"])
def test_a_page_runs_and_prints_what_it_says(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((DOCS / page).read_text())
    program = tmp_path / "page.py"
    program.write_text("\n".join(text for kind, text in blocks if kind == "python"))
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "".join(text for kind, text in blocks if kind == "text")
