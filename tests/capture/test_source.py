"""`to_python`: the written file runs without graphopt, agrees with the interpreter, and is safe to write."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graphopt import ops
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.capture.source import python_source, to_python
from graphopt.errors import BackendError, LoweringError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from tests.support.op_samples import OPS, cond_samples, samples

RUNNER = Path(__file__).parents[1] / "support" / "run_written_source.py"

SMALL = """
graph small(%x: f32[batch,3]) where batch in [1, 8] {
  %a: f32[batch,3] = mul(%x, 2.0)
  %b: f32[3*batch] = reshape(%a) {shape=(3*batch,)}
  %c: f32[3*batch] = dropout(%b) {mode="follow", p=0.5}
  return %c
}
"""


def run_written(folders: list[Path]) -> str:
    command = [sys.executable, "-W", "ignore", str(RUNNER), *(str(folder) for folder in folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=folders[0])
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def write(graph: Graph, inputs: list[torch.Tensor], folder: Path) -> Path:
    to_python(graph, folder)
    torch.manual_seed(0)
    outputs = Interpreter(graph).run(*inputs)
    cases = {f"i{n}": given.contiguous() for n, given in enumerate(inputs)}
    cases |= {f"o{n}": output.clone().contiguous() for n, output in enumerate(outputs)}
    save_file(cases, folder / "cases.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_op_agrees_with_the_interpreter(tmp_path: Path) -> None:
    folders = [
        write(graph, inputs, tmp_path / f"{op}_{number}") for op in OPS for number, (graph, inputs, _, _) in enumerate(samples(op, 3))
    ]
    folders += [write(graph, inputs, tmp_path / f"cond_{number}") for number, (graph, inputs) in enumerate(cond_samples())]
    assert len({folder.name.rsplit("_", 1)[0] for folder in folders}) == len(ops.definitions())
    assert run_written(folders) == f"{len(folders)} agree"


def test_text_is_readable_and_repeats() -> None:
    source = python_source(parse(SMALL))
    assert source == python_source(parse(SMALL))
    start = source.index("    def forward")
    assert (
        source[start : source.index("def load")].rstrip()
        == '''\
    def forward(self, x):
        """The network.

        x: f32[batch,3]
        """
        batch = x.size(0)
        a = x * 2.0
        b = a.reshape((3 * batch,))
        c = F.dropout(b, 0.5, self.training)
        return c'''
    )


HOSTILE = r"""
graph "x\"\"\"\nimport os\nos._exit(3)"(%"y):\n        import os; os._exit(3)": f32[2]) {
  param %"w\")\nimport os\nos._exit(3)\n#.a'b\\": f32[2]
  %"1; import os": f32[2] = add(%"y):\n        import os; os._exit(3)", %"w\")\nimport os\nos._exit(3)\n#.a'b\\")
  %torch: f32[2] = relu(%"1; import os") at "m\nimport os\nos._exit(3)" "f":1
  %self: f32[2] = neg(%torch)
  %F: f32[2] = add(%self, %torch)
  %lambda: f32[2] = add(%F, %self)
  return %lambda
}
"""


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    graph = parse(HOSTILE)
    tree = ast.parse(python_source(graph))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"torch", "torch.nn.functional"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "os"]
    with pytest.raises(BackendError, match="has no numbers"):
        to_python(graph, tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_unknown_symbol_is_an_error() -> None:
    graph = parse("graph f(%x: f32[n*n]) where n in [1, 9] { %y: f32[n,n] = reshape(%x) {shape=(n, n)} return %y }")
    with pytest.raises(LoweringError, match="dimension 'n' follows from no input"):
        python_source(graph)
