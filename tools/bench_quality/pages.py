"""A page of results with a picture for each task, beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from tools.bench_quality.tasks.base import Task

__all__ = ["Board", "write_page"]


class Board(Protocol):
    """All that was measured for one task."""

    @property
    def task(self) -> Task | type[Task]:
        """The task."""
        ...


AnyBoard = TypeVar("AnyBoard", bound=Board)


def write_page(
    boards: Sequence[AnyBoard],
    target: Path,
    draw: Callable[[AnyBoard, Path], bool],
    page: Callable[[Sequence[AnyBoard], Mapping[str, str]], str],
) -> None:
    """Write `page(boards, pictures)`; `draw` is False where a board has nothing to draw yet, pictures are file names by task."""
    pictures: dict[str, str] = {}
    for board in boards:
        file = target.with_name(f"{target.stem}-{board.task.name}.svg")
        if draw(board, file):
            pictures[board.task.name] = file.name
    target.write_text(page(boards, pictures), encoding="utf-8")
