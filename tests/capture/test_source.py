"""`to_python`: the written file runs without graphopt, agrees with the interpreter, and is safe to write."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graphopt import ops
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.capture import capture
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


class Net(nn.Module):
    """Batch norm, dropout, a tied weight and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

    def forward(self, x: torch.Tensor, scaled: bool = True) -> dict[str, torch.Tensor]:
        x = self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))
        return {"logits": self.second(self.first(x)) * self.scale}


def imported(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("written_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(model: nn.Module) -> list[float]:
    torch.manual_seed(3)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses: list[float] = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 8, 8))["logits"], torch.randint(0, 4, (2,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_written_network_trains_exports_and_compiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(2, 3, 8, 8)
    to_python(capture(model, (x,), dynamic={0: "batch"}), tmp_path)
    network = imported(tmp_path).load()
    assert not network.training
    assert set(network.state_dict()) == set(model.state_dict())
    network.load_state_dict(model.state_dict(), strict=True)
    assert network.state("second.weight") is network.state("first.weight")
    assert train(network) == train(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    network.eval()
    model.eval()
    five = torch.randn(5, 3, 8, 8)
    assert torch.equal(network(five)["logits"], model(five)["logits"])
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (x,), dynamic_shapes={"x": {0: batch}})
    assert torch.equal(exported.module()(five)["logits"], model(five)["logits"])
    compiled: Any = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(five)["logits"], model(five)["logits"])
    with pytest.raises(RuntimeError, match="size"):
        network(torch.randn(2, 4, 8, 8))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    to_python(capture(Net().eval(), (torch.randn(2, 3, 8, 8),)), tmp_path)
    written = imported(tmp_path)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="has other states"):
        written.load()


def test_text_is_clean(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    to_python(capture(Net().eval(), (torch.randn(2, 3, 8, 8),)), tmp_path)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "140", "--select", "E,F,W,I,B,UP"]
    done = subprocess.run([*command, str(tmp_path / "model.py")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


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
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"torch", "torch.nn.functional"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "os"]
    with pytest.raises(BackendError, match="has no numbers"):
        to_python(graph, tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_unknown_symbol_is_an_error() -> None:
    graph = parse("graph f(%x: f32[n*n]) where n in [1, 9] { %y: f32[n,n] = reshape(%x) {shape=(n, n)} return %y }")
    with pytest.raises(LoweringError, match="dimension 'n' follows from no input"):
        python_source(graph)
