"""docs/training.md runs and prints what it says."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline import test_documentation as documentation


def test_the_page_on_training_runs(tmp_path: Path) -> None:
    documentation.test_a_page_runs_and_prints_what_it_says("training.md", tmp_path)
