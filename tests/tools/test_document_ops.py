"""docs/ops.md is what the op table says."""

from __future__ import annotations

from graphopt.ops import definitions
from tools.document_ops import TARGET, document, main


def test_file_is_current() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run python tools/document_ops.py"
    assert main(["--check"]) == 0


def test_every_op_has_a_row() -> None:
    text = document()
    for found in definitions():
        assert f"| `{found.name}` |" in text
        assert found.summary, f"{found.name} has no summary"
