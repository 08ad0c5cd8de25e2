"""Printing: tables for people on a terminal, plain text in a pipe, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["print_json", "print_text", "step", "steps"]


def print_text(text: str) -> None:
    """Print to stdout as it is."""
    typer.echo(text.rstrip("\n"))


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    typer.echo(json.dumps(value, indent=2, sort_keys=False, default=str))


@contextmanager
def steps(quiet: bool = False) -> Generator[Progress]:
    """A progress display on stderr for commands of several steps; silent when stderr is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        yield progress


@contextmanager
def step(progress: Progress, description: str) -> Generator[Callable[[str, float], None]]:
    """One step of the progress display; what it gives takes (what is done, fraction from 0 to 1)."""
    task = progress.add_task(description, total=None)

    def update(what: str, fraction: float) -> None:
        progress.update(task, description=f"{description}: {what}", total=1.0, completed=fraction)

    try:
        yield update
    finally:
        progress.remove_task(task)
