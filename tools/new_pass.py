"""Writes the files of a new pass: the pass, its test, and its entry point.

    python -m tools.new_pass merge-relus
    python -m tools.new_pass fold-scale --numeric rounding --stage deploy --room remove

What it writes runs: a rule that removes the second of two relus, to be replaced by yours. Nothing that exists
is overwritten.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import GraphoptError, UsageError
from graphopt.pipeline.passes import NumericClass, Stage

__all__ = ["create", "main"]

_NAME = re.compile(r"[a-z]+(?:-[a-z0-9]+)+\Z")

_PASS = '''"""Remove the second of two relus: say here what the pass does, before and after.

    %b = relu(%a)        where %a = relu(%x)
    -> every use of %b becomes %a

Numeric class: {numeric}. Say why, and what would break it (NaN? the sign of zero?).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Operand
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.pattern import Emitter, Match, pattern_rule

__all__ = ["{class_name}"]


def pattern(op: Any, x: Any) -> Any:
    """What to look for."""
    return op.relu(op.relu(x, name="inner", shared=True))


def replacement(op: Emitter, m: Match) -> Operand:
    """What takes its place."""
    return m.inner.result


@dataclass(frozen=True)
class {class_name}(RulePass):
    """Remove the second of two relus."""

    name = "{name}"
    numeric = NumericClass.{numeric_name}
    stage = Stage.{stage_name}
    rules = (pattern_rule(pattern, replacement),)
'''

_TEST = '''"""{class_name}: text before and after, and why it leaves other nodes alone."""

from __future__ import annotations

from graphopt.passes.{room}.{module} import {class_name}
from tests.support.pass_checks import check_kept, check_rewrite

BEFORE = """graph g(%x: f32[2,3]) {{
  %a: f32[2,3] = relu(%x)
  %b: f32[2,3] = relu(%a)
  return %b
}}
"""
AFTER = """graph g(%x: f32[2,3]) {{
  %a: f32[2,3] = relu(%x)
  return %a
}}
"""


def test_it_rewrites() -> None:
    check_rewrite({class_name}(), BEFORE, AFTER)


def test_it_keeps_other_nodes_and_says_why() -> None:
    check_kept({class_name}(), BEFORE.replace("relu(%x)", "exp(%x)"), "comes from exp, needs relu")
'''


def create(root: Path, name: str, *, room: str = "remove", numeric: NumericClass, stage: Stage) -> tuple[Path, ...]:
    """Write pass, test and entry point under the repository at `root`; returns the files that are new or changed.

    Raises:
        UsageError: the name is no verb-noun in lower case, a file exists, or pyproject.toml has no group for passes.
    """
    if not _NAME.match(name):
        raise UsageError(f"'{name}' can't name a pass", fix="use a verb and a noun in lower case with dashes: merge-relus")
    module, class_name = name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-"))
    project, group = root / "pyproject.toml", '[project.entry-points."graphopt.passes"]\n'
    text = project.read_text(encoding="utf-8")
    if group not in text:
        raise UsageError(f"{project} has no group of passes", fix=f"add {group.strip()}")
    words = {"name": name, "class_name": class_name, "module": module, "room": room}
    words |= {"numeric": numeric.value, "numeric_name": numeric.name, "stage_name": stage.name}
    files = {root / "passes" / room / f"{module}.py": _PASS, root / "tests" / "passes" / f"test_{module}.py": _TEST}
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists and is left as it is", fix="choose another name")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", fix="make it, with an __init__.py, or choose another --room")
    for path, template in files.items():
        path.write_text(template.format_map(words), encoding="utf-8")
    head, _, rest = text.partition(group)
    lines, blank, tail = rest.partition("\n\n")
    entries = sorted([*lines.splitlines(), f'{name} = "graphopt.passes.{room}.{module}:{class_name}"'])
    project.write_text(head + group + "\n".join(entries) + blank + tail, encoding="utf-8")
    return (*files, project)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(prog="new_pass", description="Write the files of a new pass.")
    parser.add_argument("name", help="a verb and a noun: merge-relus")
    parser.add_argument("--room", default="remove", help="folder under passes/")
    parser.add_argument("--numeric", choices=[numeric.value for numeric in NumericClass], default="exact")
    parser.add_argument("--stage", choices=[stage.value for stage in Stage], default="training-safe")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="repository to write into")
    options = parser.parse_args(arguments)
    try:
        for path in create(
            options.root, options.name, room=options.room, numeric=NumericClass(options.numeric), stage=Stage(options.stage)
        ):
            print(path)
    except (GraphoptError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("make it known: pip install -e . --no-deps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
