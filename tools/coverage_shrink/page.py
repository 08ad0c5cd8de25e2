"""The document: how many models pass each step, beside Torch-Pruning, and why the others don't."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from tools.bench_cpu.machine import describe
from tools.coverage_shrink.ours import STEPS
from tools.coverage_shrink.peer import LIMIT

__all__ = ["FAMILIES", "document", "family_of", "passes", "summary"]

Record = Mapping[str, Any]

FAMILIES = (
    "torchvision classification",
    "torchvision segmentation",
    "torchvision video",
    "torchvision optical flow",
    "timm",
    "transformers",
)
_SEGMENTATION = ("deeplab", "fcn_", "lraspp")
_VIDEO = ("mc3_18", "mvit_v", "r2plus1d", "r3d", "s3d", "swin3d")
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "torch-pruning", "numpy")


def family_of(name: str) -> str:
    """The family of `torchvision:resnet50`; a line of the table."""
    group, _, model = name.partition(":")
    if group != "torchvision":
        return group
    if model.startswith(_SEGMENTATION):
        return "torchvision segmentation"
    if model.startswith(_VIDEO):
        return "torchvision video"
    return "torchvision optical flow" if model.startswith("raft") else "torchvision classification"


def passes(record: Record) -> bool:
    """True when every step of ours held."""
    return "failed" not in record


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.1f} %)" if total else "-"


def summary(ours: Sequence[Record], peers: Sequence[Record]) -> list[str]:
    """The table: per family, models that pass each step, all of ours, and Torch-Pruning's."""
    lines = ["| family | models | " + " | ".join(STEPS) + " | **all of these** | Torch-Pruning | with recipe |"]
    lines += ["|---" * (len(STEPS) + 5) + "|"]
    by_peer = {record["name"]: record for record in peers}
    for family in (*FAMILIES, "all"):
        chosen = [record for record in ours if family in ("all", family_of(record["name"]))]
        if not chosen:
            continue
        counts = [str(sum(record.get(step) in ("ok", "none") for record in chosen)) for step in STEPS]
        found = [by_peer[record["name"]] for record in chosen if record["name"] in by_peer]
        naive = sum(record.get("naive") == "ok" for record in found)
        either = sum("ok" in (record.get("naive"), record.get("recipe")) for record in found)
        cells = [family, str(len(chosen)), *counts, f"**{_share(sum(map(passes, chosen)), len(chosen))}**"]
        cells += [_share(naive, len(found)), _share(either, len(found))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else float("nan")


def _figures(ours: Sequence[Record], peers: Sequence[Record]) -> list[str]:
    good = [record for record in ours if record.get("cut") == "ok"]
    if not good:
        return []
    ratios = [record["parameters after"] / record["parameters"] for record in good]
    largest = max((record for record in ours if "analysis seconds" in record), key=lambda record: record["nodes"])
    slowest = max((record for record in ours if "analysis seconds" in record), key=lambda record: record["analysis seconds"])
    peer_ratios = [record["ratio"] for record in peers if "ratio" in record]
    dead = [record for record in ours if record.get("dead units") == "ok"]
    untested = sum(record.get("dead units") == "none" for record in ours)
    groups = sum(record.get("group count", 0) for record in ours)
    kept = sum(record.get("renormalised", 0) for record in ours)
    late = sum(record.get("dead by") == "written and read" for record in dead)
    return [
        f"- Parameters left: {_median(ratios):.2f} (median; {min(ratios):.2f} to {max(ratios):.2f}). "
        f"Torch-Pruning: {_median(peer_ratios):.2f} where it succeeds.",
        f"- Analysis of axis groups: {_median(r['analysis seconds'] for r in good):.3f} s (median). Largest model: "
        f"{largest['name']}, {largest['nodes']} nodes, {largest['analysis seconds']:.2f} s; slowest: "
        f"{slowest['name']}, {slowest['nodes']} nodes, {slowest['analysis seconds']:.2f} s.",
        f"- Dead units: largest float64 difference {max((r['dead error'] for r in dead), default=float('nan')):.1e} of the largest "
        f"output, over {len(dead)} models; {untested} more have no group that can be dead without changing a norm or a mean, "
        f"and count as passed. In {late} of the {len(dead)} functions that are not zero at zero come after the units, and "
        "the weights that read the units were zeroed as well.",
        f"- {kept} of {groups} groups have a node that averages or normalises over their units; the dead-unit check leaves these whole.",
        f"- CPU time: ours {sum(r.get('seconds', 0) for r in ours) / 60:.0f} min, "
        f"Torch-Pruning {sum(r.get('seconds', 0) for r in peers) / 60:.0f} min.",
    ]


def _fixed(ours: Sequence[Record]) -> list[str]:
    axes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for record in ours:
        for reason, count in record.get("fixed", {}).items():
            axes[reason] += count
            models[reason] += 1
    lines = ["", "## Parameter axes that can't be cut", "", "| reason | axes | models |", "|---|---|---|"]
    return lines + [f"| {_clean(reason)} | {count} | {models[reason]} |" for reason, count in axes.most_common(30)]


def _clean(text: str) -> str:
    return text.replace("|", "/")


def _failures(ours: Sequence[Record], peers: Sequence[Record]) -> list[str]:
    failed = [record for record in ours if not passes(record)]
    lines = ["", f"## Ours: failures ({len(failed)})", "", "| model | step | reason |", "|---|---|---|"]
    lines += [f"| {r['name']} | {r['failed']} | {_clean(r['reason'])} |" for r in failed]
    lost = [record for record in peers if "ok" not in (record.get("naive"), record.get("recipe"))]
    lines += ["", f"## Torch-Pruning: failures ({len(lost)})", "", "| model | as documented | with the recipe |", "|---|---|---|"]
    for record in lost:
        naive = record.get("naive") or record.get("reason", "-")
        lines.append(f"| {record['name']} | {_clean(naive)[:160]} | {_clean(record.get('recipe', '-'))[:160]} |")
    return lines


def _models(ours: Sequence[Record], peers: Sequence[Record]) -> list[str]:
    by_peer = {record["name"]: record for record in peers}
    lines = ["", "## All models", ""]
    lines += ["| model | nodes | groups | analysis s | parameters left | dead-unit error | ours | Torch-Pruning | its parameters left |"]
    lines += ["|---" * 9 + "|"]
    for record in ours:
        peer = by_peer.get(record["name"], {})
        other = "ok" if peer.get("naive") == "ok" else "recipe" if peer.get("recipe") == "ok" else "fails" if peer else "-"
        left = f"{record['parameters after'] / record['parameters']:.3f}" if "parameters after" in record else "-"
        dead = f"{record['dead error']:.0e}" if record.get("dead units") == "ok" else record.get("dead units", "-")
        cells = [record["name"], record.get("nodes", "-"), record.get("group count", "-"), record.get("analysis seconds", "-"), left, dead]
        cells += ["ok" if passes(record) else record["failed"], other, f"{peer['ratio']:.3f}" if "ratio" in peer else "-"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def _versions() -> str:
    found = [f"{package} {metadata.version(package).partition('+')[0]}" for package in _PACKAGES]
    machine = describe()
    return f"{', '.join(found)}, Python {machine['python']}; {machine['cpu']}, one thread per model"


def document(ours: Sequence[Record], peers: Sequence[Record], command: str) -> str:
    """The whole result as Markdown."""
    ours = sorted(ours, key=lambda record: record["name"])
    peers = sorted(peers, key=lambda record: record["name"])
    lines = ["# Shrink on the model zoo", "", f"Written by `{command}`; do not edit by hand. {_versions()}.", ""]
    lines += [
        "Each model has random weights (zero layers randomised), is captured, and loses a random half of the units of **every** axis",
        "group, all at once. Columns: *capture*; *groups*: the analysis ran and found something to cut; *poison*: NaN in the removed",
        "units reaches nothing that stays, node by node through the real ops; *cut*: the graph was rewritten and verified; *run*: in",
        "float32, with the dense model's output shapes and finite values; *smaller*: fewer parameters; *dead units*: with the removed",
        "units' weights set to zero first, cutting them leaves the output unchanged in float64 (1e-9 of its largest value).",
        "",
        "Torch-Pruning runs on the same models: MagnitudePruner with group L2 importance, ratio 0.5, classifiers left out, as its",
        "documentation says. *With recipe*: where that ended with an error, what its examples do by hand was tried too: unfused",
        "attention, numbers of heads, widths in multiples of 8, and sizes that the Python code keeps set anew. Success: the pruned",
        "model runs, gives the dense model's output shapes, finite values, and has fewer parameters; whether the right positions",
        f"went is not checked for it. {LIMIT:.0f} s of CPU time for each attempt.",
        "",
        "torchvision's detectors can't be exported and are left out.",
        "",
    ]
    lines += summary(ours, peers)
    lines += ["", *_figures(ours, peers), *_fixed(ours), *_failures(ours, peers), *_models(ours, peers)]
    return "\n".join(lines) + "\n"
