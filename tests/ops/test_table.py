"""The table as a whole."""

from __future__ import annotations

import subprocess
import sys

from graphopt import ops


def test_needs_no_torch() -> None:
    program = "import sys, graphopt.ops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_definitions_are_complete() -> None:
    for found in ops.definitions():
        assert found.summary, f"{found.name} has no summary"
        assert len(set(found.operand_names)) == len(found.operands), f"{found.name} names an operand twice"
        assert found.literals <= set(found.operand_names), f"{found.name} allows a number for an operand that it has not"
        assert all(not name.startswith("*") for name in found.operands[:-1]), f"{found.name}: only the last operand may repeat"


def test_groups_name_ops() -> None:
    groups = {name: value for name, value in vars(ops).items() if name.isupper()}
    assert len(groups) >= 20
    for name, members in groups.items():
        assert members, f"{name} is empty"
        for member in members:
            assert ops.is_canonical(member), f"{name} holds '{member}', which is no op"


def test_views_and_effects() -> None:
    assert {found.name for found in ops.definitions() if found.view} == {"reshape"}
    random = {found.name for found in ops.definitions() if found.effect is ops.Effect.RANDOM}
    assert random == ops.DROPOUTS | ops.RECURRENT
