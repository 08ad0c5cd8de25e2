"""Wrong passes, backends and inputs: each gets one clear error, or works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.export import Dim

import graphopt
from graphopt.errors import (
    BackendError,
    CaptureError,
    ExampleInputError,
    GraphoptError,
    PassError,
    RunInputError,
    SymbolError,
    UnknownPassError,
    UsageError,
)
from tests.support.small_models import IMAGE, TARGETS, Sum, X, everywhere, linear, network, quantised


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
    "keyword": ((X,), {"mask": X}, r"got the keyword arguments \['mask'\], needs \['input'\]"),
    "twice": ((X,), {"input": X}, r"got the arguments \['input'\] by position and by name"),
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
