"""Backends by name, the calls that executables take, and the backends `reference` and `torch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from graphopt.backends.base import Backend, Executable, backend, backends, lower, register_backend
from graphopt.backends.reference.backend import ReferenceBackend
from graphopt.capture import capture
from graphopt.errors import ArtifactError, BackendError, RunInputError, SymbolError
from graphopt.ir.parser import parse


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor], *, bias: torch.Tensor) -> dict[str, Any]:
        return {"out": self.linear(pair[0]) + pair[1] + bias, "also": (pair[1],)}


def make() -> tuple[Pair, Any]:
    model = Pair().eval()
    example = ((torch.randn(2, 3), torch.randn(2, 2)),)
    return model, capture(model, example, kwargs={"bias": torch.zeros(2)})


@pytest.mark.parametrize("target", ["reference", "torch"])
def test_call_is_the_models_own(target: str) -> None:
    model, graph = make()
    executable = lower(graph, target)
    pair, bias = (torch.randn(2, 3), torch.randn(2, 2)), torch.ones(2)
    found = executable(pair, bias=bias)
    assert torch.equal(found["out"], model(pair, bias=bias)["out"])
    assert not found["out"].requires_grad
    assert isinstance(found["also"], tuple)
    arrays = executable((pair[0].numpy(), pair[1].numpy()), bias=bias.numpy())
    assert isinstance(arrays["out"], numpy.ndarray)
    assert numpy.array_equal(arrays["out"], found["out"].numpy())
    assert executable.graph is graph
    assert executable.report[0].startswith(f"{graph.node_count} nodes")
    assert len(executable.run([*pair, bias])) == 2


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, flag: bool, y: torch.Tensor) -> torch.Tensor:
        return x + y if flag else x - y


@pytest.mark.parametrize("target", ["reference", "torch", "onnxruntime", "cpu"])
def test_positional_arguments_can_be_named_as_the_module_takes_them(target: str) -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    graph = capture(Scaled().eval(), (x, False, y))
    executable = lower(graph, target)
    for found in (executable(x=x, y=y), executable(x, y=y), executable(y=y, x=x)):
        torch.testing.assert_close(torch.as_tensor(found), x - y)
    with pytest.raises(RunInputError, match=r"argument 0 is missing|got the keyword arguments \['y'\]"):
        executable(y=y)


@pytest.mark.parametrize("target", ["reference", "torch"])
@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {"bias": 1}, "argument 0 is missing"),
        (((1, 2), 3), {}, "got 2 positional arguments, needs 1"),
        (((torch.zeros(2, 3),),), {"bias": torch.zeros(2)}, "argument 0 is a tuple of 1, needs a tuple of 2"),
        (((torch.zeros(2, 3), torch.zeros(2, 2)),), {}, "keyword argument 'bias' is missing"),
        (
            ((torch.zeros(2, 3), torch.zeros(2, 2)),),
            {"bias": torch.zeros(2), "b": 1},
            r"got the keyword arguments \['b'\], needs \['argument_0', 'bias'\]",
        ),
        (
            ((torch.zeros(2, 3), torch.zeros(2, 2)),),
            {"bias": 3},
            r"input 2 \(%bias\) is a int, needs a torch tensor or numpy array f32\[2\]",
        ),
        (((torch.zeros(2, 3), torch.zeros(2, 2)),), {"bias": torch.zeros(3)}, r"input 2 \(%bias\) is f32\[3\], needs f32\[2\]"),
    ],
)
def test_bad_calls_are_explained(target: str, args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(RunInputError, match=text):
        lower(make()[1], target)(*args, **kwargs)


def test_fixed_literals_are_checked() -> None:
    text = 'graph f(%x: f32[2]) takes ($0, none) {"cache": false} { %y: f32[2] = neg(%x) return %y as [$0] }'
    executable = lower(parse(text), "reference")
    assert executable(torch.ones(2))[0].tolist() == [-1.0, -1.0]
    with pytest.raises(RunInputError, match="argument 'cache' is True, was fixed to false at capture"):
        executable(torch.ones(2), None, cache=True)
    with pytest.raises(RunInputError, match="argument 1 is 0, was fixed to none"):
        executable(torch.ones(2), 0)


@pytest.mark.parametrize("target", ["reference", "torch"])
def test_sizes_outside_the_range_are_refused(target: str) -> None:
    graph = parse("graph f(%x: f32[n]) where n in [2, 4] { %y: f32[n] = neg(%x) return %y }")
    assert lower(graph, target)(torch.ones(4)).shape == (4,)
    with pytest.raises(SymbolError, match=r"dimension 'n' is 5 in the inputs, the graph needs n in \[2, 4\]"):
        lower(graph, target)(torch.ones(5))


@pytest.mark.parametrize(("target", "options"), [("reference", {}), ("torch", {}), ("torch", {"compile": True, "mode": "reduce-overhead"})])
def test_save_and_load(target: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, graph = make()
    executable = lower(graph, target, **options)
    executable.save(tmp_path / "saved")
    executable.save(tmp_path / "saved")
    loaded = backend(target).load(tmp_path / "saved")
    assert loaded.report == executable.report
    if not options:
        pair, bias = (torch.randn(2, 3), torch.randn(2, 2)), torch.ones(2)
        assert torch.equal(loaded(pair, bias=bias)["out"], model(pair, bias=bias)["out"])


def test_compiled_executable_runs() -> None:
    torch.compiler.reset()
    model, graph = make()
    pair, bias = (torch.randn(2, 3), torch.randn(2, 2)), torch.ones(2)
    with torch.compiler.set_stance("force_eager"):  # no C++ compiler is needed to see that the call arrives
        found = lower(graph, "torch", compile=True)(pair, bias=bias)["out"]
    assert torch.allclose(found, model(pair, bias=bias)["out"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", r"holds \[\], needs compile"),
        ("{", "can't be read"),
        ('{"compile": 1, "mode": "default"}', "needs compile"),
        (None, "no torch.json"),
    ],
)
def test_damaged_options_are_refused(text: str | None, error: str, tmp_path: Path) -> None:
    lower(make()[1], "torch").save(tmp_path / "saved")
    file = tmp_path / "saved" / "torch.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArtifactError, match=error):
        backend("torch").load(tmp_path / "saved")


def test_unknown_names_and_options() -> None:
    graph = parse("graph f(%x: f32[2]) { return %x }")
    with pytest.raises(BackendError, match="no backend is called 'onnxruntim'") as caught:
        lower(graph, "onnxruntim")
    assert "onnxruntime" in str(caught.value)
    with pytest.raises(BackendError, match="backend 'torch' has no option thread"):
        lower(graph, "torch", thread=2)
    with pytest.raises(BackendError, match="mode is 'fast', needs one of default"):
        lower(graph, "torch", mode="fast")
    with pytest.raises(BackendError, match="backend 'reference' has no option fast"):
        lower(graph, "reference", fast=True)


class Doubling(Backend):
    """A third party's backend."""

    name = "doubling"

    def lower(self, graph: Any, **options: Any) -> Executable:
        return ReferenceBackend().lower(graph, **options)


def test_a_backend_is_registered_by_name() -> None:
    register_backend("doubling", f"{__name__}:Doubling")
    register_backend("doubling", f"{__name__}:Doubling")
    assert "doubling" in backends()
    with pytest.raises(BackendError, match="is registered as"):
        register_backend("doubling", "other:Class")
    with pytest.raises(BackendError, match="needs 'module:Class'"):
        register_backend("broken", "module")
    register_backend("absent", "no_such_module_anywhere:Class")
    with pytest.raises(BackendError, match="can't be imported"):
        backend("absent")
    with pytest.raises(BackendError, match="can't load"):
        Doubling().load("anywhere")
