"""Bad and odd input, from capture to a saved executable: each has one clear error, or works."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import graphopt
from graphopt.backends.base import Executable
from graphopt.errors import (
    ArtifactError,
    BackendError,
    CaptureError,
    ExampleInputError,
    GraphoptError,
    GraphoptWarning,
    PassError,
    RunInputError,
    SymbolError,
    UnknownPassError,
    UnsupportedModelError,
    UsageError,
)
from graphopt.ir.graph import Graph

TARGETS = ("reference", "torch", "onnxruntime")
pytestmark = pytest.mark.onnxruntime


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2)).eval()


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def everywhere(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, **options: Any) -> Graph:
    """Optimise, and compare with the model: the module, each backend, and what comes back from files."""
    given = [each.clone() for each in inputs]
    wanted = model(*inputs)
    result = graphopt.optimize(model, example_inputs=inputs, **options)
    assert not result.pipeline.failures
    result.graph.save(folder / "graph")
    loaded = graphopt.load(folder / "graph")
    assert isinstance(loaded, Graph)
    assert str(loaded) == str(result.graph)
    result.graph.to_python(folder / "written")
    runs: list[Callable[..., Any]] = [result.module, loaded.to_module()]
    for target in ("torch", "onnxruntime"):
        executable = graphopt.lower(result.graph, target)
        executable.save(folder / target)
        again = graphopt.load(folder / target)
        assert isinstance(again, Executable)
        runs += [executable, again]
    runs.append(graphopt.lower(result.graph, "reference"))
    for run in runs:
        torch.testing.assert_close(run(*inputs), wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert all(map(torch.equal, given, inputs))
    return result.graph


# Passes and backends


@pytest.mark.parametrize(
    ("passes", "error", "text"),
    [
        (["fold-batch-nrom"], UnknownPassError, r"no pass or preset is called 'fold-batch-nrom'(.|\n)*did you mean fold-batch-norm\?"),
        (["losless"], UnknownPassError, r"did you mean lossless\?(.|\n)*known: .*fold-constants"),
        (["qqqq"], UnknownPassError, r"'qqqq'(.|\n)*known: "),
        (["fold-constants{max_byte=3}"], PassError, r"max_bytes"),
        ([3], PassError, r"a pipeline can't hold 3"),
        ([""], PassError, r"expected the name of a pass or preset"),
    ],
)
def test_unknown_passes(passes: Any, error: type[GraphoptError], text: str) -> None:
    with pytest.raises(error, match=text):
        graphopt.optimize(linear(), passes, example_inputs=(X,))


def test_unknown_backend_lists_near_names() -> None:
    with pytest.raises(BackendError, match=r"no backend is called 'onnxruntim'(.|\n)*near names: onnxruntime"):
        graphopt.lower(graphopt.capture(linear(), (X,)), "onnxruntim")


# Inputs

WRONG_CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "none": ((), {}, r"argument 0 is missing; 0 of 1"),
    "two": ((X, X), {}, r"got 2 positional arguments, needs 1"),
    "keyword": ((X,), {"mask": X}, r"got the keyword arguments \['mask'\], needs \[\]"),
    "float64": ((X.double(),), {}, r"input 0 \(%input\) is f64\[2,3\], needs f32\[2,3\]"),
    "int64": ((X.long(),), {}, r"is i64\[2,3\], needs f32\[2,3\]"),
    "rank": ((X[0],), {}, r"is f32\[3\], needs f32\[2,3\]"),
    "size": ((X[:, :2],), {}, r"is f32\[2,2\], needs f32\[2,3\]"),
    "None": ((None,), {}, r"is a NoneType, needs a torch tensor or numpy array f32\[2,3\]"),
    "list": (([1.0, 2.0],), {}, r"is a list, needs a torch tensor or numpy array f32\[2,3\]"),
    "nested": (((X,),), {}, r"is a tuple, needs a torch tensor or numpy array f32\[2,3\]"),
    "array": ((X.double().numpy(),), {}, r"is f64\[2,3\], needs f32\[2,3\]"),
    "byte order": ((X.numpy().astype(">f4"),), {}, r"is (a ndarray of )?>f4"),
    "objects": ((X.numpy().astype(object),), {}, r"is (a ndarray of )?object"),
    "meta": ((X.to("meta"),), {}, r"on the meta device, needs dense numbers"),
    "sparse": ((X.to_sparse(),), {}, r"sparse_coo, needs dense numbers(.|\n)*to_dense"),
    "mkldnn": ((X.to_mkldnn(),), {}, r"_mkldnn, needs dense numbers"),
}


@pytest.mark.parametrize("call", WRONG_CALLS)
@pytest.mark.parametrize("target", TARGETS)
def test_executables_refuse(target: str, call: str) -> None:
    args, kwargs, text = WRONG_CALLS[call]
    executable = graphopt.lower(graphopt.capture(linear(), (X,)), target)
    with pytest.raises(RunInputError, match=text):
        executable(*args, **kwargs)
    assert executable(X).shape == (2, 2), "an error leaves it usable"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nested_tensors() -> None:
    nested = torch.nested.nested_tensor([X, X])
    with pytest.raises(ExampleInputError, match="an example input is a nested tensor"):
        graphopt.capture(linear(), (nested,))
    graph = graphopt.capture(linear(), (X,))
    for target in TARGETS:
        with pytest.raises(RunInputError, match=r"input 0 .* nested"):
            graphopt.lower(graph, target)(nested)


class Turned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(x * 2)


@pytest.mark.parametrize("target", TARGETS)
def test_complex_inputs(target: str) -> None:
    x = torch.complex(X, X)
    executable = graphopt.lower(graphopt.capture(Turned().eval(), (x,)), target)
    assert torch.equal(executable(x), torch.view_as_real(x * 2))
    with pytest.raises(RunInputError, match=r"input 0 \(%x\) is f32\[2,3\], needs c64\[2,3\]"):
        executable(X)


@pytest.mark.parametrize("target", TARGETS)
def test_arrays_of_any_strides(target: str) -> None:
    executable = graphopt.lower(graphopt.capture(linear(), (X,)), target)
    wanted = linear()(X.flip(0)).detach().numpy()
    array = X.numpy()[::-1]
    assert numpy.allclose(executable(array), wanted, atol=1e-6)
    array.flags.writeable = False
    assert numpy.allclose(executable(array), wanted, atol=1e-6)


def test_only_graphs_are_lowered() -> None:
    wrong: Any = linear()
    with pytest.raises(UsageError, match=r"lower takes a Graph, got Linear(.|\n)*capture"):
        graphopt.lower(wrong)


@pytest.mark.parametrize("target", TARGETS)
def test_flat_runs_refuse(target: str) -> None:
    executable = graphopt.lower(graphopt.capture(linear(), (X,)), target)
    with pytest.raises(RunInputError, match=r"got 2 inputs, needs 1 \(%input\)"):
        executable.run([X, X])
    wrong: Any = [3]
    with pytest.raises(RunInputError, match=r"input 0.* is a int, needs a .*tensor.* f32\[2,3\]"):
        executable.run(wrong)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ("none", TypeError, "missing 1 required positional argument: 'input'"),
        ("two", TypeError, "takes 2 positional arguments but 3 were given"),
        ("keyword", TypeError, "unexpected keyword argument 'mask'"),
        ("float64", RuntimeError, "must have the same dtype"),
        ("size", RuntimeError, "cannot be multiplied"),
        ("None", TypeError, "must be Tensor, not NoneType"),
        ("meta", RuntimeError, "meta"),
    ],
)
def test_modules_fail_as_torch_modules_do(call: str, error: type[Exception], text: str) -> None:
    args, kwargs, _ = WRONG_CALLS[call]
    with pytest.raises(error, match=text):
        graphopt.capture(linear(), (X,)).to_module()(*args, **kwargs)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ((X, X), r"too many positional arguments; got \(float32\[2,3\], float32\[2,3\]\)"),
        ((X[:, :2],), r"fails on the example inputs \(float32\[2,2\]\)"),
        ((X.double(),), r"input f64\[2,3\], weight f32\[2,3\]"),
        ((X.to("meta"),), r"an input is on meta, the parameters are on cpu: move one to the other"),
        ((X.to_sparse(),), r"of the layout torch\.sparse_coo, needs dense numbers(.|\n)*x\.to_dense\(\)"),
        (([X],), r"must be Tensor, not list"),
        (X.numpy(), r"example_inputs is a ndarray(.|\n)*tuple of tensors"),
    ],
)
def test_example_inputs_refused(example: Any, text: str) -> None:
    with pytest.raises(ExampleInputError, match=text):
        graphopt.optimize(linear(), example_inputs=example)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_example_input() -> None:
    with pytest.raises(ExampleInputError, match=r"quantised \(torch\.qint8\)(.|\n)*x\.dequantize\(\)"):
        graphopt.capture(linear(), (quantised(X),))


class Sum(nn.Module):
    """No parameters, two inputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + 2 * b, a


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_one_tensor_as_two_inputs_is_two_inputs(tmp_path: Path) -> None:
    graph = everywhere(Sum().eval(), (X, X), tmp_path)
    a, b = torch.ones(2, 3), torch.full((2, 3), 5.0)
    for target in TARGETS:
        first, second = graphopt.lower(graph, target)(a, b)
        assert (first.unique().tolist(), second.unique().tolist()) == ([11.0], [1.0])


def test_a_parameter_as_example_input_is_no_tie(tmp_path: Path) -> None:
    model = Scaled().eval()
    with torch.no_grad():
        graph = everywhere(model, (model.scale,), tmp_path)
    assert graph.to_module()(torch.ones(3)).tolist() == [1.0, 2.0, 3.0]


def test_empty_batches(tmp_path: Path) -> None:
    everywhere(linear(), (X[:0],), tmp_path / "linear")
    everywhere(network(), (IMAGE[:0],), tmp_path / "network")
    graph = graphopt.optimize(network(), example_inputs=(IMAGE,), dynamic={"input": {0: Dim("batch", min=0, max=8)}}).graph
    for target in TARGETS:
        executable = graphopt.lower(graph, target)
        assert [executable(IMAGE[:0]).shape, executable(IMAGE[:1]).shape] == [(0, 2), (1, 2)]
        with pytest.raises(SymbolError, match=r"dimension 'batch' is 9 in the inputs, the graph needs batch in \[0, 8\]"):
            executable(IMAGE[:1].expand(9, -1, -1, -1))


@pytest.mark.parametrize("target", TARGETS)
def test_an_empty_batch_outside_the_range(target: str) -> None:
    executable = graphopt.lower(graphopt.capture(linear(), (X,), dynamic={"input": {0: "batch"}}), target)
    with pytest.raises(SymbolError, match=r"'batch' is 0 in the inputs, the graph needs batch in \[1, inf\]"):
        executable(X[:0])


def test_a_dynamic_axis_of_size_zero_in_the_example() -> None:
    with pytest.raises(CaptureError, match=r"dynamic dimensions do not fit Linear(.|\n)*specialized due to hint of 0"):
        graphopt.capture(linear(), (X[:0],), dynamic={"input": {0: "batch"}})


def test_a_failed_capture_leaves_the_callers_tensors_alone() -> None:
    x = X.clone()
    before = dict(vars(x))
    with pytest.raises(CaptureError, match="dynamic dimensions do not fit Linear"):
        graphopt.capture(linear(), (x,), dynamic={"input": {1: "features"}})
    assert vars(x) == before
    assert graphopt.capture(linear(), (x,)).node_count == 1


def test_a_dynamic_size_whose_name_is_no_name() -> None:
    with pytest.raises(ExampleInputError, match=r"calls axis 0 of 'input' 'a\\n\*/'(.|\n)*identifier"):
        graphopt.capture(linear(), (X,), dynamic={"input": {0: "a\n*/"}})


# Models


def test_train_mode_is_told_and_restored() -> None:
    model = network().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.warns(GraphoptWarning, match=r"train mode \(6 of 7 modules\): it is captured in eval mode, and left in train mode"):
        result = graphopt.optimize(model, ["lossless-training"], example_inputs=(IMAGE,), keep_trainable=True)
    assert [module.training for module in model.modules()] == modes
    module = result.module
    assert not module.training
    torch.testing.assert_close(module(IMAGE), model.eval()(IMAGE))
    optimiser = torch.optim.SGD(module.train().parameters(), lr=0.1)
    before = module(IMAGE).square().mean()
    assert not torch.equal(module(IMAGE), module(IMAGE)), "dropout follows train()"
    before.backward()
    optimiser.step()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_eval_mode_is_not_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphoptWarning)
        graphopt.capture(network(), (IMAGE,))


def test_modes_are_restored_after_an_error() -> None:
    model = network().train()
    with pytest.warns(GraphoptWarning), pytest.raises(ExampleInputError):
        graphopt.capture(model, (X,))
    assert all(module.training for module in model.modules())


def test_meta_models() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'weight' is on the meta device and has no numbers(.|\n)*to_empty"):
        graphopt.optimize(nn.Linear(3, 2, device="meta").eval(), example_inputs=(X.to("meta"),))
    result = graphopt.optimize(Sum().eval(), example_inputs=(X.to("meta"), X.to("meta")))
    assert result.module(X, X)[1].shape == (2, 3), "a model without parameters has all its numbers"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (torch.Tensor.to_sparse, r"'mask' has the layout torch\.sparse_coo, needs torch\.strided(.|\n)*mask\.to_dense\(\)"),
        (torch.Tensor.to_sparse_csr, r"'mask' has the layout torch\.sparse_csr"),
        (torch.Tensor.to_mkldnn, r"'mask' has the layout torch\._mkldnn"),
        (quantised, r"'mask' is quantised(.|\n)*before quantisation"),
    ],
)
def test_tensors_that_are_not_dense(convert: Callable[[torch.Tensor], torch.Tensor], text: str) -> None:
    model = linear()
    model.register_buffer("mask", convert(torch.eye(3)))
    with pytest.raises(UnsupportedModelError, match=text):
        graphopt.optimize(model, example_inputs=(X,))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 1e-40])
@pytest.mark.parametrize("key", ["0.weight", "1.weight", "1.running_mean", "1.running_var", "5.bias"])
def test_special_weights(key: str, number: float, tmp_path: Path) -> None:
    model = network()
    model.state_dict()[key].view(-1)[0] = number
    everywhere(model, (IMAGE,), tmp_path)


class Empty(nn.Module):
    """Layers without features, an empty parameter, and their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(3, 0), nn.Linear(0, 2)
        self.rows = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.wide(self.narrow(x)), torch.cat([x, self.rows]), (x @ self.rows.t()).sum(-1), self.rows


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_weights(tmp_path: Path) -> None:
    everywhere(Empty().eval(), (X,), tmp_path)


def test_weights_and_inputs_in_odd_orders_of_memory(tmp_path: Path) -> None:
    model = network().to(memory_format=torch.channels_last)
    model[5].weight = nn.Parameter(torch.randn(16, 2).t())
    everywhere(model, (IMAGE.to(memory_format=torch.channels_last),), tmp_path / "a")
    everywhere(linear(), (torch.randn(3, 4).t()[::2],), tmp_path / "b")
    everywhere(linear(), (torch.randn(1, 3).expand(4, 3),), tmp_path / "c")


class Outputs(nn.Module):
    """Outputs that are inputs, parameters, buffers and views of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.randn(3)), nn.Buffer(torch.randn(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x, self.weight, self.table, self.weight.view(1, 3), x.view(-1), x


class Constant(nn.Module):
    """No input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self) -> torch.Tensor:
        return self.weight * 2


def test_outputs_that_nothing_computes(tmp_path: Path) -> None:
    everywhere(Outputs().eval(), (X,), tmp_path / "a")
    everywhere(Constant().eval(), (), tmp_path / "b")
    everywhere(nn.Identity().eval(), (X,), tmp_path / "c")


def test_results_are_not_the_callers_memory() -> None:
    executable = graphopt.lower(graphopt.capture(nn.Identity().eval(), (X,)), "onnxruntime")
    x = X.clone()
    executable(x).zero_()
    assert torch.equal(x, X)


class WritesInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


class WritesParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.weight.add_(1)
        return x * self.weight


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("make", [WritesInput, WritesParameter])
def test_writes_are_told_and_left_out(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), X.clone()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.warns(GraphoptWarning, match="forward changes tensors in place that it does not own: '(x|weight)'"):
        graph = graphopt.capture(model, (x,))
    assert torch.equal(x, X)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    wanted = model(X.clone())
    for run in (graph.to_module(), *(graphopt.lower(graph, target) for target in TARGETS)):
        for _ in range(2):
            torch.testing.assert_close(run(x), wanted)
        assert torch.equal(x, X)


def test_writes_to_buffers_are_refused() -> None:
    model = WritesBuffer().eval()
    with pytest.raises(UnsupportedModelError, match=r"forward changes the buffer 'calls' in place(.|\n)*test_bad_input\.py:\d+(.|\n)*fix"):
        graphopt.capture(model, (X,))
    assert model.calls.item() == 0


@dataclass
class Answer:
    logits: torch.Tensor
    size: int


def returns_answer(y: torch.Tensor) -> Answer:
    return Answer(y, 3)


def returns_set(_: torch.Tensor) -> set[int]:
    return {1, 2}


def returns_numbered(y: torch.Tensor) -> dict[int, torch.Tensor]:
    return {3: y}


class Returns(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x + 1)


RETURNED: dict[str, Callable[[torch.Tensor], Any]] = {
    "none": lambda _: None,
    "integer": lambda _: 3,
    "empty": lambda _: (),
    "mixed": lambda y: (y, None, 3, {"a": {"b": [y, 2.5, "s", True], "": {}}}),
    "sizes": lambda y: (y, y.shape[0], {"shape": tuple(y.shape)}),
    "twice": lambda y: [y, y],
    "odd keys": lambda y: {'a"\n*/\0\u202e': y, "class": y * 2},
}


@pytest.mark.parametrize("kind", RETURNED)
def test_outputs_of_any_structure(kind: str, tmp_path: Path) -> None:
    model = Returns(RETURNED[kind]).eval()
    graph, wanted = graphopt.capture(model, (X,)), model(X)
    assert str(graphopt.parse(str(graph))) == str(graph)
    executables = [graphopt.lower(graph, target) for target in TARGETS]
    executables[2].save(tmp_path / "executable")
    graph.save(tmp_path / "graph")
    loaded, again = graphopt.load(tmp_path / "graph"), graphopt.load(tmp_path / "executable")
    assert isinstance(loaded, Graph)
    assert isinstance(again, Executable)
    for run in (graph.to_module(), *executables, loaded.to_module(), again):
        found = run(X)
        assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
        for leaf, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
            assert torch.equal(leaf, other) if isinstance(other, torch.Tensor) else leaf == other


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (returns_answer, r"returns a class that torch can't take apart(.|\n)*Answer(.|\n)*register_dataclass"),
        (returns_set, r"returns a class that torch can't take apart(.|\n)*set"),
        (returns_numbered, r"a dict has the keys \[3\], needs strings"),
    ],
)
def test_outputs_that_no_graph_can_return(make: Callable[[torch.Tensor], Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        graphopt.capture(Returns(make).eval(), (X,))


# Names

HOSTILE = {
    "quote": 'a"b',
    "apostrophe": "a'b",
    "newline": "a\nb",
    "return": "a\r\nb",
    "NUL": "a\0b",
    "comment": "*/ /* # //",
    "docstring": '"""',
    "long": "x" * 10_000,
    "keyword": "class",
    "constant": "None",
    "self": "self",
    "right to left": "\u202eevil\u2069",
    "line separator": "\u2028",
    "backslash": "a\\b",
    "template": "${x}{y}%s`z`",
    "code": "import os",
    "accent": "é",
    "path": "a/b",
    "digit": "0",
    "syntax": "%x: f32[2] = $0",
    "alias": "graphopt_state_0",
}


class Named(nn.Module):
    """A module, a parameter and a buffer of one odd name, each in a holder of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.a, self.b, self.c = nn.Module(), nn.Module(), nn.Module()
        self.a.__dict__["_modules"][name] = nn.Linear(3, 3)
        self.b.__dict__["_parameters"][name] = nn.Parameter(torch.randn(3))
        self.c.__dict__["_buffers"][name] = torch.randn(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a.get_submodule(self.name)(x) * self.b.get_parameter(self.name) + self.c.get_buffer(self.name)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names(name: str, tmp_path: Path) -> None:
    model = Named(name).eval()
    everywhere(model, (X,), tmp_path / "optimised")
    graph = graphopt.capture(model, (X,))
    assert str(graphopt.parse(str(graph))) == str(graph)
    graph.save(tmp_path / "graph")
    loaded = graphopt.load(tmp_path / "graph")
    assert isinstance(loaded, Graph)
    for module in (graph.to_module(), loaded.to_module()):
        assert list(module.state_dict()) == list(model.state_dict())
        module.load_state_dict(model.state_dict())
    graph.to_python(tmp_path / "written")
    compile((tmp_path / "written" / "model.py").read_text(encoding="utf-8"), "model.py", "exec")


def test_a_name_that_is_no_text() -> None:
    model = nn.Module()
    model.register_parameter("a\ud800", nn.Parameter(torch.ones(2)))
    with pytest.raises(UnsupportedModelError, match=r"'a\\ud800' holds half of a surrogate pair"):
        graphopt.capture(model, (X,))


# Artifacts


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph and two executables in folders of one folder."""
    folder = tmp_path_factory.mktemp("saved")
    graph = graphopt.capture(linear(), (X,))
    graph.save(folder / "graph")
    for target in ("torch", "onnxruntime"):
        graphopt.lower(graph, target).save(folder / target)
    return folder


def damages(content: bytes) -> Iterator[bytes]:
    """The content cut off at nine places, with flipped bytes, with more behind it, and replaced."""
    step = max(len(content) // 8, 1)
    yield from (content[:length] for length in range(0, len(content), step))
    for place in range(0, len(content), step):
        yield content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]
    yield content + b"\0"
    yield b"\x80\x04\x95"


@pytest.mark.parametrize("kind", ["graph", "torch", "onnxruntime"])
def test_damaged_artifacts(kind: str, saved: Path, tmp_path: Path) -> None:
    """Every damage is an ArtifactError, or changes nothing that matters: the loaded one still gives the right numbers."""
    wanted = linear()(X)
    files = [file.relative_to(saved / kind) for file in (saved / kind).rglob("*") if file.is_file()]
    assert len(files) >= 3
    refused = 0
    for file in files:
        for content in damages((saved / kind / file).read_bytes()):
            folder = tmp_path / "damaged"
            shutil.copytree(saved / kind, folder)
            (folder / file).write_bytes(content)
            try:
                loaded = graphopt.load(folder)
                run = loaded.to_module() if isinstance(loaded, Graph) else loaded
                torch.testing.assert_close(run(X), wanted, rtol=1e-5, atol=1e-6)
            except ArtifactError as error:
                refused += bool(str(error))
            shutil.rmtree(folder)
    assert refused > 10 * len(files)


@pytest.mark.parametrize("kind", ["graph", "torch", "onnxruntime"])
def test_missing_files(kind: str, saved: Path, tmp_path: Path) -> None:
    for file in [file.relative_to(saved / kind) for file in (saved / kind).rglob("*") if file.is_file()]:
        folder = tmp_path / "missing"
        shutil.copytree(saved / kind, folder)
        (folder / file).unlink()
        with pytest.raises(ArtifactError):
            graphopt.load(folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_folders_without_an_artifact(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        graphopt.load(tmp_path / name)
