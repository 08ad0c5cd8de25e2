"""Text of plans and emitted sources."""

from __future__ import annotations

__all__ = ["MOST_COMMENT", "comment", "size_text"]

MOST_COMMENT = 300
"""Characters of a comment."""


def comment(text: str) -> str:
    """Text of a model inside a comment of one line of C++ or Python: printable ASCII, without what could continue the line
    (a backslash, or the question marks of a trigraph)."""
    clean = "".join(c if " " <= c <= "~" and c not in "\\?" else "_" for c in text[:MOST_COMMENT])
    return clean + ("..." if len(text) > MOST_COMMENT else "")


def size_text(count: int) -> str:
    """Bytes for people, `3.1 MiB`."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
