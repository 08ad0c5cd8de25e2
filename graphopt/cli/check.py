"""`graphopt check`: verify an artifact without running its network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.analysis.table import counted
from graphopt.cli.options import Json
from graphopt.cli.output import print_json, print_text

__all__ = ["check"]


def check(
    path: Annotated[Path, typer.Argument(help="A folder that graphopt saved, or a .gir text file.", show_default=False)],
    json_: Json = False,
) -> None:
    """Verify a saved folder: hashes, sizes, text, types. Nothing in it is run; exit code 2 when it is damaged."""
    from graphopt import ops
    from graphopt.cli.models import load_subject

    graph = load_subject(str(path)).captured()
    ops.verify(graph)
    states = len(graph.states)
    if json_:
        print_json({"path": str(path), "ok": True, "graph": graph.name, "nodes": graph.node_count, "states": states})
    else:
        print_text(f"{path}: ok, graph '{graph.name}' with {counted(graph.node_count, 'node')} and {counted(states, 'state')}")
