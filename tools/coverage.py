"""Every model of the zoo: captured, round-tripped, optimised, lowered, and compared with the eager model.

    python -m tools.coverage                       # all 315, writes docs/coverage.md
    python -m tools.coverage --family timm -k vit  # some, prints the table

    python -m tools.coverage --shrink              # every axis group cut by half, beside Torch-Pruning; see tools.coverage_shrink

Each model runs in its own process with a limit on time and memory (tools.zoo.pool).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools import zoo
from tools.zoo.pool import run_all

__all__ = ["main"]

STEPS = ("build", "export", "capture", "round trip", "matches eager", "lossless", "onnxruntime")


def _records(names: list[str], peer: bool, *, workers: int, limit: float, memory: int) -> Iterator[dict[str, Any]]:
    from tools.coverage_worker import examine

    return run_all(names, partial(examine, peer=peer), workers=workers, limit=limit, memory=memory)


def _summary(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| family | models | " + " | ".join(STEPS) + " |", "|---|---|" + "---|" * len(STEPS)]
    for family in ("torchvision", "timm", "transformers", "all"):
        chosen = [r for r in records if family == "all" or r["name"].startswith(family + ":")]
        if not chosen:
            continue
        counts = [sum(r.get(step) == "ok" for r in chosen) for step in STEPS]
        lines.append(f"| {family} | {len(chosen)} | " + " | ".join(str(c) for c in counts) + " |")
    return lines


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else float("nan")


def document(records: list[dict[str, Any]]) -> str:
    """The whole result as Markdown."""
    import onnxruntime
    import timm
    import torch
    import torchvision
    import transformers

    records = sorted(records, key=lambda r: r["name"])
    lines = ["# Coverage of the model zoo", ""]
    lines += ["Written by `python -m tools.coverage`; each column counts the models that passed that step.", ""]
    lines += [
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"transformers {transformers.__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}. "
        "Random weights, zero layers randomised, one thread per model.",
        "",
    ]
    lines += _summary(records)
    captured = [r for r in records if r.get("capture") == "ok"]
    native = [r for r in captured if r.get("onnxruntime") == "ok" and not r.get("partitions")]
    shrunk = [1 - r["nodes after"] / r["nodes"] for r in captured if r.get("nodes after") and r["nodes"]]
    lines += ["", f"- ONNX Runtime runs {len(native)} models as one session; the others run with partitions on the reference path."]
    seconds = _median([r["capture seconds"] for r in captured])
    lines += [
        f"- Capture takes {seconds:.1f} s (median), which includes `torch.export`; `python -m tools.bench_overhead` compares the two."
    ]
    lines += [f"- The lossless pipeline removes {100 * _median(shrunk):.0f} % of the nodes (median)."]
    worst = max((r["lossless error"] for r in captured if r.get("lossless") == "ok"), default=float("nan"))
    lines += [f"- Largest float64 difference after the lossless pipeline, float32 weights: {worst:.1e} of the largest output."]
    lines += ["  (What the passes fold is stored in float32; the check of every pass, to 1e-9, is made before that, in float64.)"]
    opaque = Counter(op for r in captured for op in r.get("opaque", ()))
    lines += ["", "## Ops carried as opaque nodes", "", "| op | models |", "|---|---|"]
    lines += [f"| {op} | {count} |" for op, count in opaque.most_common()]
    failed = [r for r in records if "failed" in r]
    lines += ["", f"## Failures ({len(failed)})", "", "| model | step | reason |", "|---|---|---|"]
    lines += [f"| {r['name']} | {r['failed']} | {r['reason'].replace('|', '/')} |" for r in failed]
    lines += ["", "## All models", ""]
    lines += ["| model | nodes | after | float64 error | ORT error | ORT | export s | capture s | lossless s | ORT s |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for r in records:
        where = "-" if r.get("onnxruntime") != "ok" else f"{len(r['partitions'])} partitions" if r.get("partitions") else "native"
        cells = [r["name"], r.get("nodes", "-"), r.get("nodes after", "-")]
        cells += [f"{r[k]:.0e}" if k in r else "-" for k in ("lossless error", "onnxruntime error")]
        cells += [where, *(r.get(f"{k} seconds", "-") for k in ("export", "capture", "lossless", "onnxruntime"))]
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the zoo; 1 when something fails that `torch.export` can do."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--shrink" in arguments:
        from tools.coverage_shrink.command import main as shrink

        return shrink([argument for argument in arguments if argument != "--shrink"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("torchvision", "timm", "transformers"), help="only this family")
    parser.add_argument("-k", dest="pattern", default="", help="only names that contain this")
    parser.add_argument("--shrink", action="store_true", help="cut every axis group by half; `--shrink --help` lists its options")
    parser.add_argument("--workers", "--jobs", type=int, default=2, help="models at once (default 2)")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one model (default 300)")
    parser.add_argument("--memory", type=float, default=11, help="GiB of address space for one model (default 11, heavy ones twice)")
    parser.add_argument("--peer", action="store_true", help="also try torch.onnx.export(dynamo=True)")
    parser.add_argument("--output", type=Path, help="Markdown file (default docs/coverage.md when all models run)")
    parser.add_argument("--records", type=Path, help="append one JSON record a line to this file; models already in it are skipped")
    options = parser.parse_args(arguments)
    chosen = [n for n in zoo.names(options.family) if options.pattern in n]
    records: list[dict[str, Any]] = []
    if options.records and options.records.exists():
        records = [json.loads(line) for line in options.records.read_text().splitlines()]
        done = {r["name"] for r in records}
        chosen = [n for n in chosen if n not in done]
    memory = int(options.memory * 2**30)
    for record in _records(chosen, options.peer, workers=options.workers, limit=options.limit, memory=memory):
        records.append(record)
        if options.records:
            with options.records.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
        outcome = f"FAILED {record['failed']}: {record['reason']}" if "failed" in record else "ok"
        print(f"[{len(records)}/{len(chosen)}] {record['name']} {record.get('seconds', '')} s {outcome}", flush=True)
    print("\n" + "\n".join(_summary(records)))
    output = options.output or (Path("docs/coverage.md") if not options.family and not options.pattern else None)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(document(records))
        print(f"written to {output}")
    return int(any(r.get("export") == "ok" and "failed" in r for r in records))


if __name__ == "__main__":
    raise SystemExit(main())
