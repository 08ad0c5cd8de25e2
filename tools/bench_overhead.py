"""What `optimize` costs beside `torch.export` alone, with checks off and with the default checks.

python -m tools.bench_overhead                      # resnet50 at 224, 7 interleaved rounds
python -m tools.bench_overhead torchvision:vit_b_16 --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import graphopt
from graphopt.optimize import Result
from graphopt.pipeline.checker import CheckLevel
from graphopt.report.measure import environment
from tools import zoo

__all__ = ["main"]


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    """Measure and print medians, quartiles and the ratio per round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="torchvision:resnet50", help="a model of the zoo")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds after one warm-up (default 7)")
    parser.add_argument("--side", type=int, default=224, help="image side for torchvision models (default 224)")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    model = zoo.build(options.model)
    args, kwargs = model.args, model.kwargs
    if options.model.startswith("torchvision:"):
        args = (torch.randn(1, 3, options.side, options.side, generator=torch.Generator().manual_seed(0)),)

    def optimise(check: CheckLevel) -> Result:
        return graphopt.optimize(model.module, ["lossless"], example_inputs=args, kwargs=kwargs, check=check)

    variants: dict[str, Callable[[], Any]] = {
        "torch.export alone": lambda: torch.export.export(model.module, args, kwargs, strict=False),
        "optimize, checks off": lambda: optimise("off"),
        "optimize, default checks": lambda: optimise("default"),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        for name, function in variants.items():
            seconds = _seconds(function)
            if number:
                times[name].append(seconds)
    base = times["torch.export alone"]
    print(f"{options.model}, {options.rounds} rounds, " + ", ".join(f"{k} {v}" for k, v in environment().items()))
    for name, values in times.items():
        ratios = sorted(value / reference for value, reference in zip(values, base, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        ratio = f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
        print(f"  {name:26} {statistics.median(values):6.2f} s   x torch.export {ratio}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
