"""The command line of `python -m tools.coverage --shrink`; see `tools.coverage_shrink`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools import zoo
from tools.coverage_shrink.page import document, passes, summary
from tools.zoo.pool import Examine, run_all

__all__ = ["load", "main", "models", "store"]

_DETECTORS = ("rcnn", "retinanet", "fcos", "ssd")


def models(family: str | None = None, pattern: str = "") -> list[str]:
    """The zoo's models without torchvision's detectors, which torch.export can't export."""
    return [n for n in zoo.names(family) if pattern in n and not (n.startswith("torchvision:") and any(d in n for d in _DETECTORS))]


def load(file: Path) -> dict[str, dict[str, Any]]:
    """Records by model; of several of one model the last."""
    if not file.exists():
        return {}
    return {record["name"]: record for record in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def store(file: Path, record: dict[str, Any]) -> None:
    """Add a record."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.coverage --shrink", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=("torchvision", "timm", "transformers"), help="only this family")
    parser.add_argument("-k", dest="pattern", default="", help="only names that contain this")
    parser.add_argument("--jobs", "--workers", type=int, default=2, help="models at once (default 2)")
    parser.add_argument("--limit", type=float, default=300, help="seconds of wall time for one model (default 300)")
    parser.add_argument("--memory", type=float, default=11, help="GiB of address space for one model (default 11, heavy ones twice)")
    parser.add_argument("--only", choices=("ours", "peer"), help="only ours, or only Torch-Pruning (default both)")
    parser.add_argument(
        "--again", choices=("failed", "all"), help="examine models anew that have a record: those of ours that failed, or all"
    )
    parser.add_argument("--records", type=Path, default=Path("build/coverage_shrink"), help="folder of the records, one JSON line each")
    parser.add_argument("--output", type=Path, help="Markdown file (default docs/coverage-shrink.md when all models have a record of both)")
    parser.add_argument("--page-only", action="store_true", help="examine nothing, write the page from the records there are")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the models that have no record yet, print the table, write the page; 1 when one of ours failed."""
    options = _parser().parse_args(arguments)
    chosen = models(options.family, options.pattern)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in ("ours", "peer"):
        file = options.records / f"{kind}.jsonl"
        found[kind] = load(file)
        if options.page_only or options.only not in (None, kind):
            continue
        waiting = [name for name in chosen if name not in found[kind] or _is_wanted(found[kind][name], kind, options.again)]
        _examine(kind, waiting, file, found[kind], options)
    ours, peers = ([record for name, record in found[kind].items() if name in chosen] for kind in ("ours", "peer"))
    print("\n" + "\n".join(summary(ours, peers)))
    whole = not options.family and not options.pattern and len(ours) == len(peers) == len(chosen)
    output = options.output or (Path("docs/coverage-shrink.md") if whole or options.page_only else None)
    if output:
        output.write_text(document(ours, peers, "python -m tools.coverage --shrink"), encoding="utf-8")
        print(f"written to {output}")
    return int(not all(map(passes, ours)))


def _is_wanted(record: dict[str, Any], kind: str, again: str | None) -> bool:
    return again == "all" or (again == "failed" and kind == "ours" and not passes(record))


def _examine(kind: str, names: list[str], file: Path, found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    memory = int(options.memory * 2**30)
    for number, record in enumerate(run_all(names, _examiner(kind), workers=options.jobs, limit=options.limit, memory=memory), 1):
        found[record["name"]] = record
        store(file, record)
        outcome = f"FAILED {record['failed']}: {record['reason'][:160]}" if "failed" in record else _outcome(record)
        print(f"{kind} [{number}/{len(names)}] {record['name']} {record.get('seconds', '')} s {outcome}", flush=True)


def _outcome(record: dict[str, Any]) -> str:
    return "ok" if "naive" not in record else " | ".join(record[key][:100] for key in ("naive", "recipe") if key in record)


def _examiner(kind: str) -> Examine:
    if kind == "ours":
        from tools.coverage_shrink.ours import examine
    else:
        from tools.coverage_shrink.peer import examine
    return examine
