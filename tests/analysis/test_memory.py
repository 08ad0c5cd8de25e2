"""Liveness and peak memory, by hand, and against the reference interpreter."""

from __future__ import annotations

import torch

from graphopt.analysis import last_uses, live_ranges, peak_memory
from graphopt.ir.parser import parse

CHAIN = """\
graph chain(%x: f32[10]) {
  %a: f32[10] = relu(%x)
  %b: f32[10] = add(%a, 1.0)
  %c: f32[10] = mul(%b, %a)
  return %c
}
"""

VIEWS = """\
graph views(%x: f32[10]) {
  param %w: f32[100]
  %a: f32[10] = relu(%x)
  %v: f32[2,5] = reshape(%a) {shape=(2, 5)}
  %d: f32[2,5] = dropout(%v) {mode="follow", p=0.5}
  %b: f32[20] = concat(%a, %a) {axis=0}
  %c: f32[2,5] = neg(%d)
  return %c, %b
}
"""


def test_last_uses() -> None:
    dying = {node.name: [value.name for value in values] for node, values in last_uses(parse(CHAIN)).items()}
    assert dying == {"a": ["x"], "c": ["a", "b"]}


def test_unread_results_die_at_once() -> None:
    graph = parse(CHAIN.replace("return %c", "return %b"))
    dying = {node.name: [value.name for value in values] for node, values in last_uses(graph).items()}
    assert dying == {"a": ["x"], "c": ["a", "c"]}


def test_live_ranges() -> None:
    ranges = {value.name: (live.start, live.end) for value, live in live_ranges(parse(CHAIN)).items()}
    assert ranges == {"x": (-1, 0), "a": (0, 2), "b": (1, 2), "c": (2, 3)}
    found = live_ranges(parse(CHAIN))
    graph_values = {value.name: live for value, live in found.items()}
    assert graph_values["a"].overlaps(graph_values["b"])
    assert not graph_values["x"].overlaps(graph_values["c"])


def test_peak_of_a_chain() -> None:
    """x stays; a, b and c exist while mul runs."""
    found = peak_memory(parse(CHAIN))
    assert found.live == (("a", 80), ("b", 120), ("c", 160))
    assert (found.peak, found.node, found.inputs, found.weights) == (160, "c", 40, 0)
    assert str(found) == "peak memory 160 B at %c, weights 0 B"


def test_views_share_memory() -> None:
    """a, v and d are one buffer, which dies with the last reader of d."""
    found = peak_memory(parse(VIEWS))
    assert found.live == (("a", 80), ("v", 80), ("d", 80), ("b", 160), ("c", 200))
    assert (found.peak, found.weights, found.total) == (200, 400, 600)


def test_dropout_in_training_needs_memory() -> None:
    found = peak_memory(parse(VIEWS.replace("follow", "train")))
    assert found.live == (("a", 80), ("v", 80), ("d", 120), ("b", 200), ("c", 200))


def test_symbolic_sizes() -> None:
    text = CHAIN.replace("[10]", "[n]").replace(") {", ") where n in [1, 9] {")
    found = peak_memory(parse(text))
    assert (found.peak, found.known, found.total) == (None, 0, None)
    assert set(found.unknown) == {"x", "a", "b", "c"}
    assert "peak memory unknown: at least 0 B" in str(found)
    assert peak_memory(parse(text), {"n": 10}).peak == 160


def test_nothing_runs() -> None:
    found = peak_memory(parse("graph empty(%x: f32[10]) {\n  return %x\n}\n"))
    assert (found.peak, found.node, found.live) == (40, None, ())


def test_regions_need_memory_inside() -> None:
    graph = parse("""\
graph branches(%flag: bool[], %x: f32[4]) {
  %y: f32[4] = cond(%flag, %x) regions {
    graph then(%a: f32[4]) {
      %big: f32[40] = tile(%a) {repeats=(10,)}
      %r: f32[4] = slice(%big) {axis=0, start=0, step=1, stop=4}
      return %r
    }
    graph else(%a: f32[4]) {
      %r: f32[4] = neg(%a)
      return %r
    }
  }
  return %y
}
""")
    assert peak_memory(graph).peak == (1 + 16) + 160 + 16


def test_peak_is_what_the_interpreter_holds() -> None:
    """The reference interpreter frees values after their last use: the bytes alive at each node are the same."""
    from graphopt.backends.reference.interpreter import Interpreter

    graph = parse(CHAIN)
    held: list[int] = []
    alive: dict[str, int] = {}
    dying = {node.name: values for node, values in last_uses(graph).items()}
    x = torch.randn(10)

    def watch(value: object, tensor: torch.Tensor) -> None:
        name = str(getattr(value, "name", ""))
        alive[name] = tensor.numel() * tensor.element_size()
        if name not in {"x"}:
            held.append(sum(alive.values()))
            for dead in dying.get(name, ()):
                if dead.name != "x":
                    del alive[dead.name]

    Interpreter(graph).run(x, on_value=watch)
    offset = 0 if "x" in alive else 40
    assert [size + offset for size in held] == [size for _, size in peak_memory(graph).live]
