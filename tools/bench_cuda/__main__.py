"""`python -m tools.bench_cuda`: needs a CUDA GPU; see the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from graphopt.backends.cuda.device import device_name, has_device
from tools.bench_cpu import models
from tools.bench_cpu.errors import relative_to_largest
from tools.bench_cuda.arms import ARMS, OURS, Ready, flat, make, precision
from tools.bench_cuda.records import Record, read, write
from tools.bench_cuda.roofline import Ceilings, ceilings, least_seconds, milliseconds
from tools.bench_cuda.table import page, summary

__all__ = ["main", "make_ready"]

_REPOSITORY = Path(__file__).parents[2]
MODELS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16", "bert", "swin_t")
DTYPES = ("float32", "tf32", "float16", "bfloat16")
_TURN = 100.0
"""Milliseconds of a turn."""
_WARM_UPS = 5
"""Runs of each arm once all are made, before anything is timed."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_cuda", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names by commas; any torchvision classifier, or bert")
    parser.add_argument("--batch", default="1,8,32", help="batch sizes, by commas")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help=f"of {', '.join(DTYPES)}, by commas")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}, by commas")
    parser.add_argument("--rounds", type=int, default=9, help="rounds per case")
    parser.add_argument("--root", type=Path, default=_REPOSITORY / "build" / "bench_cuda", help="where weights and results are kept")
    parser.add_argument("--page", type=Path, default=_REPOSITORY / "docs" / "benchmarks-cuda.md", help="the page to write")
    return parser


def _names(text: str, known: tuple[str, ...], what: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    for name in found:
        if name not in known:
            raise ValueError(f"'{name}' is no {what}: use {', '.join(known)}")
    return found


def measure(name: str, batch: int, dtype: str, arms: list[str], rounds: int, root: Path, limits: Ceilings) -> Record:
    """One case: all arms made and warmed up, then rounds in which each has a turn, in turning order."""
    import graphopt

    module = models.load(name, root / name)
    given = tuple(tensor.cuda() for tensor in models.inputs(name, batch))
    wanted = _reference(module, given)
    errors: dict[str, float] = {}

    def make_arm(arm: str) -> Ready:
        made = make(arm, module, given, dtype)
        goal = wanted if made.changed is None else _reference(made.changed, given)
        errors[arm] = relative_to_largest([tensor.double().cpu().numpy() for tensor in made.outputs()], goal)
        return made

    precision(dtype)
    ready, failures = make_ready(arms, make_arm)
    counts = {arm: max(1, int(_TURN / max(milliseconds(made.run, 3), 1e-3))) for arm, made in ready.items()}
    times: dict[str, list[float]] = {arm: [] for arm in ready}
    order = list(ready)
    for number in range(rounds):
        for arm in order[number % len(order) :] + order[: number % len(order)]:
            times[arm].append(milliseconds(ready[arm].run, counts[arm]))
    graph = graphopt.optimize(graphopt.capture(module, tuple(tensor.cpu() for tensor in given)), ["lossless"], check="off").graph
    least = least_seconds(graph, limits, 2 if dtype in ("float16", "bfloat16") else 4)
    environment = {"GPU": device_name(), "torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    notes = {arm: made.note for arm, made in ready.items()}
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(name, batch, dtype, times, errors, failures, notes, least, environment, taken)


def make_ready(arms: Iterable[str], make_arm: Callable[[str], Ready]) -> tuple[dict[str, Ready], dict[str, str]]:
    """Every arm made, then every arm warmed up; and why some could not be.

    What torch.compile keeps of an earlier case goes before any arm is made: a reset between two of them would have the first compile again
    while its calls for a turn are counted.
    """
    torch.compiler.reset()
    ready: dict[str, Ready] = {}
    failures: dict[str, str] = {}

    def attempt(arm: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # a peer that can't compile a network is reported; the others are compared
            failures[arm] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"

    for arm in arms:
        attempt(arm, lambda arm=arm: ready.update({arm: make_arm(arm)}))
    for arm, made in ready.items():
        attempt(arm, lambda made=made: [made.run() for _ in range(_WARM_UPS)])
    return {arm: made for arm, made in ready.items() if arm not in failures}, failures


def _reference(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> list[numpy.ndarray[Any, Any]]:
    """The outputs in float64, on the GPU."""
    precise = deepcopy(module).double().cuda()
    with torch.inference_mode():
        found = flat(precise(*[tensor.double() if tensor.is_floating_point() else tensor for tensor in given]))
    return [tensor.cpu().numpy() for tensor in found]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the page."""
    options = _parser().parse_args(arguments)
    try:
        dtypes = _names(options.dtypes, DTYPES, "dtype")
        arms = _names(options.arms, ARMS, "arm")
        batches = [int(part) for part in options.batch.split(",")]
        if OURS not in arms or min(batches) < 1 or options.rounds < 1:
            raise ValueError("ours is one of the arms, batch sizes and rounds are at least 1")
    except ValueError as error:
        print(f"error: {error}")
        return 2
    if not has_device():
        print("error: no CUDA device is available; this benchmark measures on a GPU and has nothing to say without one")
        return 2
    for dtype in dtypes:
        precision(dtype)
        limits = ceilings(dtype)
        for batch in batches:
            for name in options.models.split(","):
                record = measure(name.strip(), batch, dtype, arms, options.rounds, options.root, limits)
                write(options.root / "results", record)
                print(summary(record), flush=True)
    options.page.write_text(page(read(options.root / "results")))
    print(f"wrote {options.page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
