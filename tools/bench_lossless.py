"""Node counts and ONNX Runtime latency after lossless optimisation: ours beside onnxslim and onnxsim.

    python -m tools.bench_lossless                     # 20 models, writes docs/benchmarks-lossless.md
    python -m tools.bench_lossless -k resnet --rounds 50

Every model is exported by `torch.onnx.export(dynamo=True)`, simplified by each peer, and captured and
optimised by us. All results run in ONNX Runtime with the same options, in turn within each round, with a
fixed canary network before and after; rounds in which the canary moved are thrown away. Printed are
medians, the middle half of the ratios per round, and the largest difference from the float32 model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tools import zoo
from tools.coverage_worker import relative_error

__all__ = ["main"]

MODELS = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:densenet121",
    "torchvision:googlenet",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:squeezenet1_1",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "torchvision:mnasnet1_0",
    "torchvision:convnext_tiny",
    "torchvision:swin_t",
    "torchvision:vit_b_16",
    "timm:levit_128s",
    "timm:mixer_s16_224",
    "timm:repvgg_a0",
    "transformers:bert",
    "transformers:gpt2",
    "transformers:distilbert",
)
ARMS = ("torch.onnx", "onnxslim", "onnxsim", "graphopt")
CANARY_DRIFT = 1.15
"""A round is dropped when its canary took this many times the median canary or more."""


@dataclass
class Row:
    """Figures of one model: per arm nodes, milliseconds per round and error, or why an arm failed."""

    name: str
    nodes: dict[str, int] = field(default_factory=dict[str, int])
    times: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    errors: dict[str, float] = field(default_factory=dict[str, float])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    rounds: int = 0

    def median(self, arm: str) -> float:
        """Median latency in milliseconds."""
        return statistics.median(self.times[arm])

    def ratios(self, arm: str) -> tuple[float, float, float]:
        """Quartiles of (arm's time / our time) over the rounds: above 1, we are faster."""
        ratios = sorted(a / b for a, b in zip(self.times[arm], self.times["graphopt"], strict=True))
        return ratios[len(ratios) // 4], statistics.median(ratios), ratios[(3 * len(ratios)) // 4]


class Session:
    """An ONNX model ready to run on fixed inputs."""

    def __init__(self, model: onnx.ModelProto, inputs: list[np.ndarray[Any, Any]], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # A session's idle threads would otherwise spin into the next variant's run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in self._session.get_inputs()]
        self._feed = dict(zip(names, inputs, strict=True))

    def run(self) -> list[Any]:
        """Outputs of one run."""
        return list(self._session.run(None, self._feed))

    def milliseconds(self) -> float:
        """Time of one run."""
        start = time.perf_counter()
        self.run()
        return (time.perf_counter() - start) * 1e3


def count_nodes(model: onnx.ModelProto) -> int:
    """Nodes that run: those of the graph and of its sub-graphs, without constants."""
    total, pending = 0, [model.graph]
    while pending:
        graph = pending.pop()
        for node in graph.node:
            total += node.op_type != "Constant"
            pending += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return total


def _exported(model: zoo.ZooModel) -> onnx.ModelProto:
    program = torch.onnx.export(model.module, model.args, kwargs=model.kwargs, dynamo=True, verbose=False)
    assert program is not None, "the dynamo exporter returns a program"
    return program.model_proto


def _ours(model: zoo.ZooModel) -> onnx.ModelProto:
    import graphopt
    from graphopt.backends.onnxruntime import export_onnx

    result = graphopt.optimize(model.module, ["lossless"], example_inputs=model.args, kwargs=model.kwargs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(result.graph, path)
        return onnx.load(path)


def _build_arms(row: Row, model: zoo.ZooModel) -> dict[str, onnx.ModelProto]:
    import onnxsim

    arms: dict[str, onnx.ModelProto] = {}
    exported = _exported(model)
    makers: dict[str, Callable[[], Any]] = {
        "torch.onnx": lambda: exported,
        "onnxslim": lambda: _slimmed(exported),
        "onnxsim": lambda: onnxsim.simplify(_copy(exported))[0],
        "graphopt": lambda: _ours(model),
    }
    for arm, make in makers.items():
        try:
            arms[arm] = make()
            row.nodes[arm] = count_nodes(arms[arm])
        except Exception as error:  # noqa: BLE001  # a peer that fails is a result
            row.failures[arm] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return arms


def _slimmed(model: onnx.ModelProto) -> Any:
    import onnxslim

    return onnxslim.slim(_copy(model))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _canary(threads: int) -> Session:
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(8)]
    x = onnx.helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, [256, 512])
    y = onnx.helper.make_tensor_value_info("x8", onnx.TensorProto.FLOAT, [256, 512])
    graph = onnx.helper.make_graph(nodes, "canary", [x], [y], [onnx.numpy_helper.from_array(weights * 0.04, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return Session(model, [np.ones((256, 512), np.float32)], threads)


def measure(name: str, *, rounds: int, threads: int) -> Row:
    """All figures of one model."""
    row = Row(name)
    model = zoo.build(name)
    if name.startswith("torchvision:"):
        model = zoo.ZooModel(name, model.module, (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),), {})
    with torch.no_grad():
        expected = model.module(*model.args, **model.kwargs)
    arms = _build_arms(row, model)
    flat = [v.numpy() for v in (*model.args, *model.kwargs.values())]
    sessions: dict[str, Session] = {}
    for arm, proto in arms.items():
        try:
            sessions[arm] = Session(proto, flat, threads)
            row.errors[arm] = relative_error(sessions[arm].run(), expected)
        except Exception as error:  # noqa: BLE001  # a model that ONNX Runtime rejects is a result
            row.failures[arm] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            sessions.pop(arm, None)
    canary = _canary(threads)
    for session in (canary, *sessions.values()):
        for _ in range(3):
            session.run()
    raw: list[tuple[float, dict[str, float]]] = []
    for index in range(rounds):
        before = canary.milliseconds()
        order = list(sessions) if index % 2 == 0 else list(reversed(sessions))
        times = {arm: min(sessions[arm].milliseconds() for _ in range(2)) for arm in order}
        raw.append((max(before, canary.milliseconds()), times))
    typical = statistics.median(c for c, _ in raw)
    kept = [times for c, times in raw if c < CANARY_DRIFT * typical] or [times for _, times in raw]
    row.rounds = len(kept)
    row.times = {arm: [times[arm] for times in kept] for arm in sessions}
    return row


def _cells(row: Row) -> list[str]:
    cells = [row.name]
    cells += [str(row.nodes.get(arm, "-")) for arm in ARMS]
    cells += [f"{row.median(arm):.2f}" if arm in row.times else "-" for arm in ARMS]
    for arm in ARMS[1:3]:
        if arm in row.times and "graphopt" in row.times:
            low, middle, high = row.ratios(arm)
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        else:
            cells.append("-")
    cells.append(f"{row.errors['graphopt']:.0e}" if "graphopt" in row.errors else "-")
    return cells


def document(rows: list[Row], threads: int) -> str:
    """The table as Markdown."""
    import onnxsim
    import onnxslim

    lines = ["# Lossless optimisation beside onnxslim and onnxsim", ""]
    lines += ["Written by `python -m tools.bench_lossless`. Nodes without constants; milliseconds are medians over"]
    lines += ["interleaved rounds (the better of two runs in each); a ratio is the peer's time over ours per round,"]
    lines += ["median and middle half: above 1 ours is faster. Error: largest difference from the eager float32 model,"]
    lines += ["relative to its largest output.", ""]
    lines += [
        f"CPU {_cpu()}, {threads} threads, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"onnxslim {onnxslim.__version__}, onnxsim {onnxsim.__version__}, Python {platform.python_version()}.",
        "",
    ]
    heads = ["model", *(f"nodes {a}" for a in ARMS), *(f"ms {a}" for a in ARMS), "onnxslim / ours", "onnxsim / ours", "error"]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    for arm in ARMS[1:3]:
        both = [r for r in rows if arm in r.times and "graphopt" in r.times]
        if both:
            fewer = sum(r.nodes["graphopt"] <= r.nodes[arm] for r in both)
            geomean = statistics.geometric_mean(r.ratios(arm)[1] for r in both)
            lines += ["", f"Against {arm}: no more nodes on {fewer} of {len(both)} models, geometric mean of the ratios {geomean:.3f}."]
    failures = [(r.name, arm, why) for r in rows for arm, why in r.failures.items()]
    if failures:
        lines += ["", "Failures:", ""]
        lines += [f"- {name}, {arm}: {why}" for name, arm, why in failures]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return platform.processor()


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", dest="pattern", default="", help="only models whose name contains this")
    parser.add_argument("--rounds", type=int, default=30, help="rounds per model (default 30)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (default all cores)")
    parser.add_argument("--output", type=Path, help="Markdown file (default docs/benchmarks-lossless.md when all models run)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in MODELS:
        if options.pattern in name:
            rows.append(measure(name, rounds=options.rounds, threads=options.threads))
            print(" ".join(_cells(rows[-1])), *(f"[{a}: {w}]" for a, w in rows[-1].failures.items()), flush=True)
    text = document(rows, options.threads)
    print("\n" + text)
    output = options.output or (None if options.pattern else Path("docs/benchmarks-lossless.md"))
    if output:
        output.write_text(text)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
