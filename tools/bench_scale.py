"""How time and memory grow with the size of a graph: parse, verify, all lossless passes, print; and with depth: axis groups.

    python -m tools.bench_scale                     # 1,000 / 10,000 / 100,000 nodes, all shapes; then networks, layer by layer
    python -m tools.bench_scale --nodes 1000 10000 --shape chain
    python -m tools.bench_scale --layers 100 400 --network attention

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

__all__ = ["NETWORKS", "SHAPES", "main", "network_text"]

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


def plain(layers: int) -> Iterator[str]:
    """Linear layers and activations in a row: a group for each."""
    for layer in range(layers):
        yield f"param %w{layer}: f32[16,16]"
    previous = "%x"
    for layer in range(layers):
        yield f"%l{layer}: f32[1,6,16] = linear({previous}, %w{layer}, none)"
        yield f"%r{layer}: f32[1,6,16] = relu(%l{layer})"
        previous = f"%r{layer}"
    yield f"return {previous}"


def residual(layers: int) -> Iterator[str]:
    """Residual blocks: one group that all of them share, and one inside each."""
    yield "param %stem: f32[16,16]"
    yield "param %head: f32[4,16]"
    for layer in range(layers):
        yield f"param %up{layer}: f32[32,16]"
        yield f"param %down{layer}: f32[16,32]"
    yield "%s: f32[1,6,16] = linear(%x, %stem, none)"
    previous = "%s"
    for layer in range(layers):
        yield f"%u{layer}: f32[1,6,32] = linear({previous}, %up{layer}, none)"
        yield f"%r{layer}: f32[1,6,32] = relu(%u{layer})"
        yield f"%d{layer}: f32[1,6,16] = linear(%r{layer}, %down{layer}, none)"
        yield f"%a{layer}: f32[1,6,16] = add({previous}, %d{layer})"
        previous = f"%a{layer}"
    yield f"%y: f32[1,6,4] = linear({previous}, %head, none)"
    yield "return %y"


def attention(layers: int) -> Iterator[str]:
    """Attention blocks with heads that are split off by reshapes: every one leaves choices open."""
    yield "param %stem: f32[16,16]"
    yield "param %head: f32[4,16]"
    for layer in range(layers):
        yield from (f"param %w{name}{layer}: f32[16,16]" for name in "qkvo")
    yield "%s: f32[1,6,16] = linear(%x, %stem, none)"
    previous = "%s"
    for layer in range(layers):
        for name in "qkv":
            yield f"%{name}{layer}: f32[1,6,16] = linear({previous}, %w{name}{layer}, none)"
            yield f"%{name}s{layer}: f32[1,6,2,8] = reshape(%{name}{layer}) {{shape=(1, 6, 2, 8)}}"
            yield f"%{name}h{layer}: f32[1,2,6,8] = permute(%{name}s{layer}) {{axes=(0, 2, 1, 3)}}"
        options = "{causal=false, dropout_p=0.0, grouped=false, scale=none}"
        yield f"%m{layer}: f32[1,2,6,8] = scaled_dot_product_attention(%qh{layer}, %kh{layer}, %vh{layer}, none) {options}"
        yield f"%p{layer}: f32[1,6,2,8] = permute(%m{layer}) {{axes=(0, 2, 1, 3)}}"
        yield f"%f{layer}: f32[1,6,16] = reshape(%p{layer}) {{shape=(1, 6, 16)}}"
        yield f"%o{layer}: f32[1,6,16] = linear(%f{layer}, %wo{layer}, none)"
        yield f"%a{layer}: f32[1,6,16] = add({previous}, %o{layer})"
        previous = f"%a{layer}"
    yield f"%y: f32[1,6,4] = linear({previous}, %head, none)"
    yield "return %y"


NETWORKS: dict[str, Callable[[int], Iterator[str]]] = {"plain": plain, "residual": residual, "attention": attention}


def network_text(network: str, layers: int) -> str:
    """A network as IR text, without numbers."""
    return "graph deep(%x: f32[1,6,16]) {\n" + "\n".join(NETWORKS[network](layers)) + "\n}\n"


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


def _measure_groups(network: str, layers: int) -> dict[str, float]:
    """Seconds of the analysis of one network, the best of three, and what it found."""
    from graphopt.analysis.axes import axis_groups
    from graphopt.ir.parser import parse

    graph = parse(network_text(network, layers))
    axis_groups(parse(network_text(network, 2)))  # imports and tables
    groups = axis_groups(graph)
    sys.setrecursionlimit(200)
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        axis_groups(graph)
        times.append(time.perf_counter() - start)
    members = sum(len(group.members) for group in groups)
    return {"total": min(times), "nodes": graph.node_count, "groups": len(list(groups)), "members": members}


def main(arguments: list[str] | None = None) -> int:
    """Measure every shape at every size and every network at every depth, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10000, 100000], help="sizes, ascending")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="only this shape; may be repeated")
    parser.add_argument("--layers", type=int, nargs="+", default=[100, 400, 1600], help="depths for axis groups, ascending")
    parser.add_argument("--network", choices=list(NETWORKS), action="append", help="only axis groups, and of this network; may be repeated")
    parser.add_argument("--one", action="store_true", help="measure the one given size and shape in this process, print JSON")
    options = parser.parse_args(arguments)
    if options.one:
        alone = _measure_groups(options.network[0], options.layers[0]) if options.network else _measure(options.shape[0], options.nodes[0])
        print(json.dumps(alone))
        return 0
    if options.shape or not options.network:
        _print_shapes(options.shape or list(SHAPES), options.nodes)
    if options.network or not options.shape:
        _print_networks(options.network or list(NETWORKS), options.layers)
    return 0


def _print_shapes(shapes: list[str], sizes: list[int]) -> None:
    print("| shape | nodes | after | " + " | ".join(f"{s} s" for s in _STEPS) + " | total s | MB over baseline | exponent |")
    print("|" + "---|" * (len(_STEPS) + 6))
    for shape in shapes:
        for count, result, slope in _growth(["--shape", shape, "--nodes"], sizes):
            cells = [shape, str(count), str(result["after"]), *(f"{result[s]:.2f}" for s in _STEPS)]
            print("| " + " | ".join([*cells, f"{result['total']:.2f}", f"{result['memory'] / 1e6:.0f}", slope]) + " |", flush=True)


def _print_networks(networks: list[str], depths: list[int]) -> None:
    print("| network | layers | nodes | groups | members | axis groups s | exponent |")
    print("|" + "---|" * 7)
    for network in networks:
        for layers, result, slope in _growth(["--network", network, "--layers"], depths):
            cells = [network, str(layers), *(str(result[name]) for name in ("nodes", "groups", "members"))]
            print("| " + " | ".join([*cells, f"{result['total']:.3f}", slope]) + " |", flush=True)


def _growth(arguments: list[str], sizes: list[int]) -> Iterator[tuple[int, dict[str, float], str]]:
    """For each size what its own process measured, and the exponent since the size before."""
    previous: tuple[int, float] | None = None
    for size in sizes:
        command = [sys.executable, "-m", "tools.bench_scale", "--one", *arguments, str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"| {arguments[1]} | {size} | failed: {done.stderr.strip().splitlines()[-1]} |")
            return
        result = json.loads(done.stdout)
        slope = "-" if previous is None else f"{math.log(result['total'] / previous[1]) / math.log(size / previous[0]):.2f}"
        previous = (size, result["total"])
        yield size, result, slope


if __name__ == "__main__":
    raise SystemExit(main())
