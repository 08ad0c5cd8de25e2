"""Names of a model never reach the code that is compiled from it (R18)."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import numpy
import pytest
import torch

import graphopt
from graphopt.backends.cpu.emit import emit
from graphopt.backends.cpu.lowering import plan_graph
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor

NASTY = [
    '"', "'", "\\", "\\\n", "a\\", "*/", "/*", "//", "??/", "??/\n", "\n", "\r", "\r\n", "\0", "\u202e", "\u2028", "\x85", "\x0c",
    "\x1b[31m", "#define f", '"; system("touch owned"); //', "int", "main", "namespace", "graphopt", "step_0", "GRAPHOPT_UNIT", "%s%n",
    "${PATH}", "`id`", "$(touch owned)", "; rm -rf", "-fplugin=evil.so", "@file", "__attribute__((constructor))", 'R"(', ')"', "é",
    "日本", "\ufeff", "a" * 100_000, "\\u0022", "\\U0001F600", "_Pragma", "..", "../../etc/passwd", "%:define", "<:", "and", "0", "-1", " ",
]  # fmt: skip


def graph_of(name: str, values: tuple[str, str, str, str]) -> Graph:
    x, weight, y, z = (json.dumps(value) for value in values)
    text = f"""
graph {json.dumps(name)}(%{x}: f32[2,4]) {{
  param %{weight}: f32[4,4]
  %{y}: f32[2,4] = linear(%{x}, %{weight}, none)
  %{z}: f32[2,4] = softmax(%{y}) {{axis=1}}
  return %{z}
}}
"""
    graph = graphopt.parse(text)
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        editor.update_state(replace(state, data=TensorData(torch.eye(4))))
    return graph


def source_of(graph: Graph) -> str:
    (plan,) = plan_graph(graph).plans
    return emit(plan).files["network.cpp"]


def code_of(source: str) -> str:
    """What the compiler sees."""
    return re.sub(r"//[^\n]*", "", source)


PLAIN = code_of(source_of(graph_of("plain", ("x", "w", "y", "z"))))


def check(name: str, values: tuple[str, str, str, str]) -> None:
    source = source_of(graph_of(name, values))
    assert code_of(source) == PLAIN
    for line in source.splitlines():
        assert all(" " <= character <= "~" for character in line)
        assert not line.endswith("\\")
        assert "??" not in line
        assert len(line) < 1000


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_a_nasty_name_is_a_comment_at_most(nasty: str) -> None:
    check(nasty, (nasty, f"{nasty}w", f"{nasty}y", f"{nasty}z"))


def test_many_random_names() -> None:
    generator = random.Random(18)
    pieces = [piece for piece in NASTY if len(piece) < 100]
    for number in range(500):
        names = ["".join(generator.choice(pieces) for _ in range(generator.randrange(1, 6))) + f"{number}{part}" for part in "gxwyz"]
        check(names[0], (names[1], names[2], names[3], names[4]))


def test_a_network_of_nasty_names_compiles_and_runs() -> None:
    evil = '"; system("touch owned"); //\\\n*/ ??/'
    executable = graphopt.lower(graph_of(evil, (f"{evil}x", f"{evil}w", f"{evil}y", f"{evil}z")), "cpu", measure=False, threads=1)
    x = torch.arange(8.0).reshape(2, 4)
    assert numpy.allclose(executable.run([x])[0].numpy(), torch.softmax(x, -1).numpy(), atol=1e-6)
