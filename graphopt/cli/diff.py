"""`graphopt diff`: what two graphs do differently."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli.models import load_subject
from graphopt.cli.options import Json, Model
from graphopt.cli.output import print_json, print_text

__all__ = ["diff"]


def diff(
    before: Model,
    after: Model,
    summary: Annotated[bool, typer.Option("--summary", help="Counts only.")] = False,
    json_: Json = False,
) -> None:
    """Compare two models or saved graphs; exit code 1 when they differ."""
    from graphopt.ir.diff import diff as compare

    result = compare(load_subject(before).captured(), load_subject(after).captured())
    if json_:
        print_json(result.to_json())
    else:
        print_text(result.summary() if summary else str(result))
    if not result.is_empty:
        raise typer.Exit(1)
