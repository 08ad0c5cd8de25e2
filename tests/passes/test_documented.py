"""The tables of passes in docs/passes.md say what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

from graphopt.pipeline.registry import available, find

_PAGE = Path(__file__).parents[2] / "docs" / "passes.md"


def test_every_registered_pass_is_in_a_table_with_its_class_and_stage() -> None:
    rows = set(re.findall(r"^\| `([a-z0-9-]+)` \| ([a-z]+) \| ([a-z-]+) \|", _PAGE.read_text(encoding="utf-8"), re.M))
    found = {(name, find(name)) for name, entry in available().items() if entry.entry.value.startswith("graphopt.passes.")}
    registered = {(name, value.numeric.value, value.stage.value) for name, value in found if isinstance(value, type)}
    assert rows == registered


def test_peer_rows_name_passes_that_exist() -> None:
    peers = _PAGE.read_text(encoding="utf-8").partition("## Peer rewrites")[2]
    named = set(re.findall(r"`((?:remove|merge|fold|fuse|form|hoist|sink)-[a-z-]+)`", peers))
    assert len(named) > 25
    assert named <= set(available())
