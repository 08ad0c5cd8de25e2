"""`graphopt passes`: list the passes and presets that are installed, or explain one."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from graphopt.analysis.table import counted
from graphopt.cli.options import Json
from graphopt.cli.output import print_json, print_text

__all__ = ["passes"]


def passes(
    name: Annotated[str | None, typer.Argument(help="A pass or preset to explain.", show_default=False)] = None,
    json_: Json = False,
) -> None:
    """List passes with their numeric class and stage, or explain one with its options."""
    from graphopt.pipeline.registry import available, find, preset_lines

    if name is not None:
        _explain(name, json_)
        return
    entries = {key: find(key) for key in sorted(available())}
    rows = [
        {"name": key, "class": "preset", "stage": "", "summary": ", ".join(preset_lines(entry))}
        if isinstance(entry, tuple)
        else {"name": key, "class": entry.numeric.value, "stage": entry.stage.value, "summary": _summary(entry)}
        for key, entry in entries.items()
    ]
    if json_:
        print_json(rows)
        return
    table = Table("pass", "class", "stage", "what it does", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["class"], row["stage"], row["summary"])
    Console().print(table)


def _summary(pass_class: type) -> str:
    return (inspect.getdoc(pass_class) or "").partition("\n")[0]


def _explain(name: str, json_: bool) -> None:
    from graphopt.pipeline.options import option_table
    from graphopt.pipeline.registry import find, preset_lines

    entry = find(name)
    if isinstance(entry, tuple):
        if json_:
            print_json({"name": name, "class": "preset", "passes": preset_lines(entry)})
        else:
            print_text(
                f"{name}: a preset of {counted(len(entry), 'pass', 'passes')}, in this order\n"
                + "\n".join(f"  {spec}" for spec in preset_lines(entry))
            )
        return
    options = option_table(entry)
    module = inspect.getmodule(entry)
    if json_:
        document = {"name": name, "class": entry.numeric.value, "stage": entry.stage.value, "options": options}
        print_json(document | {"doc": inspect.getdoc(module)})
        return
    print_text(f"{name}: {entry.numeric.value}, {entry.stage.value}\n")
    print_text(inspect.getdoc(module) or "")
    print_text(f"\n{inspect.getdoc(entry) or ''}")
    if options:
        print_text("\noptions:")
        for option in options:
            print_text(f"  {option['name']}: {option['type']} = {option['default']}")
