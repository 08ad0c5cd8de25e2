"""`graphopt show --sparsity`: zeros of each parameter, their pattern, what they save, and what a mask looks like."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.analysis.sparsity import annotation_holds
from graphopt.analysis.table import scaled
from graphopt.cli.output import print_json, print_text
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.types import Sparsity

__all__ = ["show_sparsity"]


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter; sizes in bytes. `found` is the pattern that its numbers follow, `holds` whether the annotation is true of them."""

    name: str
    type: str
    elements: int
    zeros: int
    zero_rows: int
    found: Sparsity | None
    annotation: Sparsity | None
    holds: bool | None
    dense_bytes: int
    stored_bytes: int
    picture: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "name": self.name,
            "type": self.type,
            "elements": self.elements,
            "zeros": self.zeros,
            "ratio": self.zeros / self.elements,
            "zero_rows": self.zero_rows,
            "pattern": self.found.text if self.found else None,
            "annotation": self.annotation.text if self.annotation else None,
            "holds": self.holds,
            "bytes": {"memory": self.dense_bytes, "disk": self.stored_bytes},
        }


def show_sparsity(graph: Graph, names: Sequence[str] | None, json_: bool) -> None:
    """Print the table of parameters of two axes or more and totals; with `names`, also a picture of each that matches.

    Raises:
        UsageError: no parameter matches.
    """
    rows = list(_rows(graph, names))
    if names and not rows:
        known = [state.name for state in graph.states.values() if state.type.rank >= 2]
        raise UsageError(f"no parameter of {graph.name} with two axes or more matches", fix=f"it has {', '.join(known[:8]) or 'none'}")
    if json_:
        print_json({"states": [row.to_json() for row in rows], "total": _totals(rows)})
        return
    width = shutil.get_terminal_size((140, 24)).columns if sys.stdout.isatty() else 140
    console = Console(width=width, highlight=False, file=sys.stdout)
    if not rows:
        print_text(f"{graph.name} has no parameters with numbers and two axes or more")
    else:
        console.print(_table(rows))
        total = _totals(rows)
        dense, sparse = total["bytes"]["memory"], total["bytes"]["disk"]
        ratio = total["zeros"] / total["elements"]
        print_text(f"{ratio:.4f} of {total['elements']} weights are zero: {scaled(dense, 'B')} in memory, {scaled(sparse, 'B')} when saved")
    for row in rows if names else ():
        print_text(f"\n{row.name}: output channels down, inputs and taps across; blank is zero, █ is dense")
        for line in row.picture:
            print_text(f"|{line}|")


def _rows(graph: Graph, names: Sequence[str] | None) -> Iterator[Row]:
    from graphopt.analysis.sparsity_patterns import fitting_pattern
    from graphopt.analysis.sparsity_picture import picture
    from graphopt.ir.sparse_storage import stored_bytes

    for state in graph.states.values():
        chosen = not names or any(fnmatch.fnmatchcase(state.name, pattern) for pattern in names)
        if state.data is None or state.type.rank < 2 or not chosen:
            continue
        tensor = state.data.tensor().detach().cpu()
        if not tensor.numel():
            continue
        filled = tensor != 0
        annotation = state.type.sparsity
        yield Row(
            state.name,
            f"{state.type.dtype.text}[{','.join(map(str, tensor.shape))}]",
            tensor.numel(),
            tensor.numel() - int(filled.sum()),
            int((~filled.flatten(1).any(1)).sum()),
            fitting_pattern(tensor, annotation.axis if annotation else 1),
            annotation,
            annotation_holds(tensor, annotation) if annotation else None,
            tensor.numel() * tensor.element_size(),
            stored_bytes(state.type, tensor),
            picture(tensor) if names else (),
        )


def _totals(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "elements": sum(row.elements for row in rows),
        "zeros": sum(row.zeros for row in rows),
        "bytes": {"memory": sum(row.dense_bytes for row in rows), "disk": sum(row.stored_bytes for row in rows)},
    }


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("parameter", "type"):
        table.add_column(title, no_wrap=True)
    for title in ("zeros", "zero rows"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("pattern", "annotation"):
        table.add_column(title, no_wrap=True)
    for title in ("memory", "saved"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        annotated = _short(row.annotation) + (" WRONG" if row.holds is False else "")
        cells = (f"{row.zeros / row.elements:.4f}", str(row.zero_rows), _short(row.found), annotated)
        table.add_row(escape(row.name), escape(row.type), *cells, scaled(row.dense_bytes, "B"), scaled(row.stored_bytes, "B"))
    return table


def _short(sparsity: Sparsity | None) -> str:
    """`unstructured 0.8000`, `block 4x1 0.8000`, `2:4 axis=1 0.5000`; the ratio with four digits."""
    if sparsity is None:
        return ""
    words = sparsity.text.removeprefix("sparse<").removesuffix(">").rpartition(" ")[0]
    return f"{words} {sparsity.ratio:.4f}"
