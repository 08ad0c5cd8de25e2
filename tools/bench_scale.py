"""How time and memory grow with the size of a graph: parse, verify, all lossless passes, print.

    python -m tools.bench_scale                     # 1,000 / 10,000 / 100,000 nodes, all shapes
    python -m tools.bench_scale --nodes 1000 10000 --shape chain

Each graph is measured in its own process under `sys.setrecursionlimit(200)`. The exponent is the slope
between the last two sizes on logarithmic axes: 1 is linear.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["SHAPES", "main"]

_STEPS = ("parse", "verify", "clone", "passes", "print")


def chain(count: int) -> Iterator[str]:
    """A chain that gives the passes work: no-op reshapes, double negations, repeated activations."""
    previous = "%x"
    for index in range(count):
        op = ("relu({})", "relu({})", "neg({})", "neg({})", "mul({}, 1)", "reshape({}) {{shape=(1, 8)}}", "sigmoid({})")[index % 7]
        yield f"  %n{index}: f32[1,8] = {op.format(previous)}"
        previous = f"%n{index}"
    yield f"  return {previous}"


def wide(count: int) -> Iterator[str]:
    """Layers of 1,000 equal branches that read one value, joined by additions."""
    previous, index = "%x", 0
    while index < count:
        branches: list[str] = []
        for branch in range(min(1000, (count - index + 1) // 2)):
            yield f"  %b{index}: f32[1,8] = mul({previous}, {0.5 + branch})"
            branches.append(f"%b{index}")
            index += 1
        total = branches[0]
        for branch_name in branches[1:]:
            yield f"  %b{index}: f32[1,8] = add({total}, {branch_name})"
            total = f"%b{index}"
            index += 1
        previous = total
        if not branches:
            break
    yield f"  return {previous}"


def diamonds(count: int) -> Iterator[str]:
    """Diamonds in a row: two different readers of each value, joined again; some are duplicates."""
    previous = "%x"
    for index in range(0, count, 3):
        right = "sigmoid" if index % 2 else "tanh"
        yield f"  %l{index}: f32[1,8] = tanh({previous})"
        yield f"  %r{index}: f32[1,8] = {right}({previous})"
        yield f"  %j{index}: f32[1,8] = add(%l{index}, %r{index})"
        previous = f"%j{index}"
    yield f"  return {previous}"


def shared(count: int) -> Iterator[str]:
    """Every node reads the same constant, which every other one multiplies away by folding chains."""
    yield "  constant %c: f32[8]"
    previous = "%x"
    for index in range(count):
        op = "mul" if index % 2 else "add"
        yield f"  %n{index}: f32[1,8] = {op}({previous}, %c)"
        previous = f"%n{index}"
    yield f"  return {previous}"


SHAPES: dict[str, Callable[[int], Iterator[str]]] = {"chain": chain, "wide": wide, "diamonds": diamonds, "shared": shared}


def _text(shape: str, count: int) -> str:
    return "graph scale(%x: f32[1,8]) {\n" + "\n".join(SHAPES[shape](count)) + "\n}\n"


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measure(shape: str, count: int) -> dict[str, float]:
    """Seconds of each step and peak memory over the import baseline, of one graph in this process."""
    from graphopt import ops
    from graphopt.ir.parser import parse
    from graphopt.ir.printer import show
    from graphopt.pipeline.manager import PassManager
    from graphopt.pipeline.registry import resolve

    importlib.import_module("torch")  # part of the baseline
    passes = resolve("lossless")
    text = _text(shape, count)
    sys.setrecursionlimit(200)
    baseline = _resident()
    result: dict[str, float] = {}
    start = time.perf_counter()
    graph = parse(text)
    result["parse"] = time.perf_counter() - start
    start = time.perf_counter()
    ops.verify(graph)
    result["verify"] = time.perf_counter() - start
    start = time.perf_counter()
    graph.clone()
    result["clone"] = time.perf_counter() - start
    start = time.perf_counter()
    optimised = PassManager(passes, check="off").run(graph).graph
    result["passes"] = time.perf_counter() - start
    start = time.perf_counter()
    shown = show(optimised)
    result["print"] = time.perf_counter() - start
    assert show(parse(shown)) == shown, "the optimised text parses back"
    result["total"] = sum(result[step] for step in _STEPS)
    result["memory"] = _resident() - baseline
    result["after"] = optimised.node_count
    return result


def main(arguments: list[str] | None = None) -> int:
    """Measure every shape at every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10000, 100000], help="sizes, ascending")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="only this shape; may be repeated")
    parser.add_argument("--one", action="store_true", help="measure the one given size and shape in this process, print JSON")
    options = parser.parse_args(arguments)
    shapes: list[str] = options.shape or list(SHAPES)
    if options.one:
        print(json.dumps(_measure(shapes[0], options.nodes[0])))
        return 0
    print("| shape | nodes | after | " + " | ".join(f"{s} s" for s in _STEPS) + " | total s | MB over baseline | exponent |")
    print("|" + "---|" * (len(_STEPS) + 6))
    for shape in shapes:
        previous: tuple[int, float] | None = None
        for count in options.nodes:
            command = [sys.executable, "-m", "tools.bench_scale", "--one", "--shape", shape, "--nodes", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(f"| {shape} | {count} | failed: {done.stderr.strip().splitlines()[-1]} |")
                break
            result = json.loads(done.stdout)
            slope = "-" if previous is None else f"{math.log(result['total'] / previous[1]) / math.log(count / previous[0]):.2f}"
            previous = (count, result["total"])
            cells = [shape, str(count), str(result["after"]), *(f"{result[s]:.2f}" for s in _STEPS)]
            print("| " + " | ".join([*cells, f"{result['total']:.2f}", f"{result['memory'] / 1e6:.0f}", slope]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
