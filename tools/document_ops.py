"""Writes docs/ops.md, the table of canonical ops, from the op table.

python tools/document_ops.py            write docs/ops.md
python tools/document_ops.py --check    exit with 1 when the file is not current
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path

from graphopt.ops import Effect, OpDef, definitions

__all__ = ["document", "main"]

TARGET = Path(__file__).resolve().parent.parent / "docs" / "ops.md"

HEAD = """\
# Canonical ops

Written by `python tools/document_ops.py` from `graphopt/ops/`; don't edit it here.

`x` is a required operand, `bias?` may be `none`, `*xs` stands for any number of operands. An operand in *italics* may be a
number instead of a tensor. Every attribute is present on every node. A *dim* is an integer or a symbolic dimension.
Types promote as in `torch.result_type`, shapes broadcast as in torch; a symbolic dimension matches an equal one or 1.

Any other op is *opaque*: it has the name of the torch op (`aten.histc.default`), is carried, run and exported, never rewritten.

Every op but `cond` has an axis rule, which says what has to be cut together with what: `graphopt/ops/axes/`, docs/write-a-pass.md.

How floating-point operations are counted is written at the top of `graphopt/ops/flops.py`.
"""


def document() -> str:
    """The text of docs/ops.md."""
    parts = [HEAD]
    for family, group in groupby(definitions(), key=lambda found: found.family):
        parts.append(f"\n## {family}\n\n| op | operands | attributes | meaning |\n|---|---|---|---|\n")
        parts.extend(_row(found) for found in group)
    return "".join(parts)


def _row(found: OpDef) -> str:
    operands = ", ".join(_operand(found, name) for name in found.operands)
    attributes = "<br>".join(f"`{name}`: {kind.text}" for name, kind in found.kinds.items())
    notes = [found.summary]
    if found.view:
        notes.append("moves no data")
    if found.effect is Effect.RANDOM:
        notes.append("random when training")
    if found.regions:
        notes.append(f"{found.regions} regions")
    cells = (f"`{found.name}`", operands, attributes, "; ".join(notes))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _operand(found: OpDef, name: str) -> str:
    bare = name.strip("?*")
    text = name.replace("*", "\\*")
    return f"*{text}*" if bare in found.literals else text


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 when docs/ops.md is not current")
    text = document()
    if parser.parse_args(arguments).check:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != text:
            print(f"{TARGET} is not current: run python tools/document_ops.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: {len(definitions())} ops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
