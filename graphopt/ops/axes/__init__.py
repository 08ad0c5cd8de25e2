"""Axis rules: how the positions of an op's operand axes and result axes hang together.

One file per family of ops; the rules are the `axes` of each `OpDef`. What they are made of is in
`graphopt.ops.axes.links`, who reads them is `graphopt.analysis.axes`.
"""

from __future__ import annotations

__all__: list[str] = []
