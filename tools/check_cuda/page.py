"""The table of `docs/check-cuda.md`, between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.errors import UsageError
from tools.check_cuda.compiling import ARCHITECTURES, Compiled
from tools.check_cuda.networks import Outcome

__all__ = ["Verdict", "matrix", "networks", "resources", "write_section"]

Verdict = tuple[str, str, str, float, str]
"""Family, name, dtype, error, failure of a case."""


def matrix(verdicts: Sequence[Verdict], compiled: Sequence[Compiled]) -> str:
    """A row for each family: cases, failures, largest error by dtype, how many launches compiled."""
    lines = [
        "| family | cases | failures | largest error, f32 | f16 | bf16 | f64 | launches compiled, sm_80 | sm_90 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(verdict[0] for verdict in verdicts):
        rows = [verdict for verdict in verdicts if verdict[0] == family]
        errors = [_largest(rows, dtype) for dtype in ("float32", "float16", "bfloat16", "float64")]
        built = [[entry for entry in compiled if entry.family == family and entry.architecture == each] for each in ARCHITECTURES]
        counts = [f"{sum(not entry.failure for entry in entries)} of {len(entries)}" for entries in built]
        failures = sum(bool(row[4]) for row in rows)
        lines.append(f"| {' | '.join([family, str(len(rows)), str(failures), *errors, *counts])} |")
    return "\n".join(lines)


def _largest(rows: Sequence[Verdict], dtype: str) -> str:
    errors = [row[3] for row in rows if row[2] == dtype and not row[4]]
    return f"{max(errors):.1e}" if errors else ""


def resources(compiled: Sequence[Compiled]) -> str:
    """A row for each kernel: registers of a thread, bytes spilled, KiB of shared memory, by architecture."""
    head = " | ".join(f"registers sm_{each} | spilled | shared KiB" for each in ARCHITECTURES)
    lines = [f"| family | kernel | {head} |", f"|---|---|{'---|' * 3 * len(ARCHITECTURES)}"]
    found: dict[tuple[str, str], dict[int, Compiled]] = {}
    for entry in compiled:
        known = found.setdefault((entry.family, entry.name), {}).get(entry.architecture)
        if known is None or known.resources is None or (entry.resources and entry.resources.registers > known.resources.registers):
            found[entry.family, entry.name][entry.architecture] = entry
    for (family, name), by_architecture in found.items():
        cells = [cell for each in ARCHITECTURES for cell in _cells(by_architecture, each)]
        lines.append(f"| {family} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(by_architecture: Mapping[int, Compiled], architecture: int) -> tuple[str, str, str]:
    entry = by_architecture.get(architecture)
    if entry is None or entry.resources is None:
        return "failed", "", ""
    used = entry.resources
    return str(used.registers), str(used.spills), f"{used.shared / 1024:.1f}" if used.shared else "0"


def networks(outcomes: Sequence[Outcome]) -> str:
    """How many networks agree, by kind, and which kernels they had."""
    lines = ["| kind | networks | mismatches | largest error | kernels |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.kind == kind]
        kernels = sorted({name for row in rows for name in row.kernels})
        error = max((row.error for row in rows if not row.failure), default=0.0)
        lines.append(f"| {kind} | {len(rows)} | {sum(bool(row.failure) for row in rows)} | {error:.1e} | {', '.join(kernels)} |")
    return "\n".join(lines)


def write_section(file: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        UsageError: the markers are not there.
    """
    page = file.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise UsageError(f"{file.name} has no section between {begin.strip()} and {end}")
    before, _, rest = page.partition(begin)
    file.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}")
