"""A progress bar on the terminal, for what takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

__all__ = ["ProgressBar", "callback"]


class ProgressBar:
    """Steps done, loss and metric, by rich on standard error; silent where that is no terminal, unless `shown` says otherwise."""

    def __init__(self, total: int, shown: bool | None, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not (sys.stderr.isatty() if shown is None else shown))
        self._task = self._progress.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show how many are done, and a note behind the bar where there is a new one."""
        if note:
            self._progress.update(self._task, completed=done, note=note)
        else:
            self._progress.update(self._task, completed=done)


@contextmanager
def callback(progress: Callable[[str, float], None] | bool, title: str) -> Generator[Callable[[str, float], None] | None]:
    """A function of (what is done, fraction from 0 to 1): the caller's, that of a bar for True, or none for False."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with ProgressBar(100, True, title) as bar:
            yield lambda what, fraction: bar.update(round(100 * fraction), what)
