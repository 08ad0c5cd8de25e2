"""Which importance and ranking: every combination once, at one level, without training, on validation data.

This is how the settings of the compared methods were chosen; test data is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.methods import SCREENED

__all__ = ["screen", "screened"]


def _file(root: Path, name: str) -> Path:
    return root / "screen" / f"{name}.json"


def screened(root: Path, name: str) -> dict[str, float | str]:
    """By combination the part of validation items that are right, or why there is none."""
    file = _file(root, name)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def screen(task: Task, root: Path, say: Callable[[str], None]) -> None:
    """Run the combinations that have no result yet, at the task's second level."""
    found = screened(root, task.name)
    for name, arm in SCREENED.items():
        if name in found:
            continue
        try:
            found[name] = task.quality(arm.shrink(task, task.levels[1], 0).module, "validation")
        except Exception as error:  # noqa: BLE001  # a combination that does not exist for a task is a result
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        say(f"{task.name}: {name}: {found[name]}")
        file = _file(root, task.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
