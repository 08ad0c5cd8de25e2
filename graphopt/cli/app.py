"""Assembles the verbs, and turns errors into one message on stderr and an exit code.

Exit codes: 0 done; 1 the answer is no (graphs differ, an artifact or check failed); 2 bad input or usage;
130 interrupted. A traceback is shown only with `--debug`.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from graphopt.cli import bench, check, diff, export, optimize, passes, show
from graphopt.errors import GraphoptError

__all__ = ["app", "main"]

app = typer.Typer(
    name="graphopt",
    help="Optimise PyTorch models as graphs: capture, rewrite, check, lower.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_DEBUG = {"on": False}


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"graphopt {version('graphopt')}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Optimise PyTorch models as graphs: capture, rewrite, check, lower."""
    _DEBUG["on"] = debug


app.command("optimize")(optimize.optimize)
app.command("show")(show.show)
app.command("diff")(diff.diff)
app.command("passes")(passes.passes)
app.command("bench")(bench.bench)
app.command("check")(check.check)
app.command("export")(export.export)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `graphopt` command; ends the process with an exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.showwarning = _one_line_warning
    try:
        app(args=arguments)  # prints its own usage errors, then raises SystemExit
    except GraphoptError as error:
        _fail(error, str(error))
    except Exception as error:  # noqa: BLE001  # the last net: one clear line instead of a traceback from the depths
        _fail(error, f"internal error, {type(error).__name__}: {error}\n  fix: run again with --debug and report what it prints")


def _fail(error: BaseException, text: str) -> None:
    if _DEBUG["on"]:
        raise error
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {_escape(text)}")
    sys.exit(2)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None, line: str | None = None
) -> None:
    if category.__module__.startswith("graphopt"):
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]warning:[/] {_escape(str(message))}")
