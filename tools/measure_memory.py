"""How much memory a pass needs on a model that lies in a folder: `python -m tools.measure_memory --layers 24 --width 4096`.

A network of square linear layers is saved, and a fresh process loads it, runs the pass with a checkpoint, and watches its own
anonymous memory (RssAnon: what the system can't take back by dropping pages of files). Printed are the size of the weights, and
the most memory during the pass beyond what the process had before. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from math import prod
from pathlib import Path

__all__ = ["main", "measure"]

_ROWS = 64
_MAPPED = 64 << 10
"""Arrays of so many bytes are given back to the system when they are freed, as larger ones are anyway: what is measured is what
is held, not holes between pieces of small models."""


def measure(folder: Path, layers: int, width: int, pass_: str) -> dict[str, int]:
    """Bytes of weights, and of anonymous memory: before, and at most.

    Raises:
        CalledProcessError: the pass failed.
    """
    _in_a_process(["--make", str(folder), "--layers", str(layers), "--width", str(width)])
    return json.loads(_in_a_process(["--run", str(folder), "--pass", pass_]))


def _in_a_process(options: list[str]) -> str:
    """What this module prints with such options, run by itself."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(_MAPPED)}
    command = [sys.executable, "-m", "tools.measure_memory", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, options, done.stdout, done.stderr)
    return done.stdout


def _make(folder: Path, layers: int, width: int) -> None:
    import torch
    from torch import nn

    import graphopt

    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width)) for _ in range(layers)]
    graphopt.capture(nn.Sequential(*parts).eval(), (torch.randn(_ROWS, width),)).save(folder / "model")


def _run(folder: Path, pass_: str) -> dict[str, int]:
    import torch

    import graphopt

    torch.set_num_threads(1)
    small = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(3)]).eval()
    graphopt.optimize(small, [pass_], example_inputs=(torch.randn(4, 8),), calibration=[torch.randn(4, 8)])  # what is imported late
    graph = graphopt.load(folder / "model")
    assert isinstance(graph, graphopt.Graph)
    x = torch.randn(_ROWS, graph.inputs[0].type.static_shape[1])
    weights = sum(prod(state.type.static_shape) * state.type.dtype.bytes for state in graph.states.values())
    before = peak = _anonymous()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.is_set():
            peak = max(peak, _anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = graphopt.optimize(graph, [pass_], calibration=[x], checkpoint=folder / "checkpoint", strict=True)
    over.set()
    watcher.join()
    assert result.pipeline.records[0].status == "applied"
    return {"weights": weights, "before": before, "peak": peak}


def _anonymous() -> int:
    """Anonymous memory of this process (bytes)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--pass", dest="pass_", default="sparsify-obs{ratio=0.5}")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make is not None:
        _make(given.make, given.layers, given.width)
    elif given.run is not None:
        print(json.dumps(_run(given.run, given.pass_)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), given.layers, given.width, given.pass_)
        used = found["peak"] - found["before"]
        weights, used = found["weights"] / 1e6, used / 1e6
        print(f"weights {weights:.1f} MB, at most {used:.1f} MB more memory: {used / weights:.2f} of the weights")


if __name__ == "__main__":
    main()
