"""Names inside an ONNX model: readable, unique, and harmless whatever the IR's names hold.

%layer1.0.conv1  ->  layer1.0.conv1         %"a/../b\n"  ->  a_.._b_         twice  ->  twice, twice_1
"""

from __future__ import annotations

import re

__all__ = ["Namer"]

_UNUSUAL = re.compile(r"[^A-Za-z0-9_.]")
_LONGEST = 80


class Namer:
    """Hands out names, each once. Amortised O(1)."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def name(self, hint: str) -> str:
        """`hint` with unusual characters replaced and cut to 80, and a number behind it where it is taken."""
        base = _UNUSUAL.sub("_", hint)[:_LONGEST] or "value"
        name = base
        while name in self._taken:
            self._numbers[base] = self._numbers.get(base, 0) + 1
            name = f"{base}_{self._numbers[base]}"
        self._taken.add(name)
        return name
