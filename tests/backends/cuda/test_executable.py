"""Programs as a whole, in Triton's interpreter: right numbers, saved and loaded, and one clear error without a GPU."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphopt
from graphopt.backends.cuda.artifact import DOCUMENT
from graphopt.backends.cuda.device import has_device, require_device
from graphopt.backends.cuda.executable import CudaExecutable
from graphopt.backends.cuda.lowering import Program, plan_graph
from graphopt.backends.cuda.module import require_triton
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.planner.measure import measured_choice
from graphopt.errors import ArtifactError, BackendError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from tests.backends.cuda.running import expect_close


class Block(torch.nn.Module):
    """A convolution with batch norm, a depthwise one, a residual, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities, and a cumulative sum that only torch computes."""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.nn.functional.silu(self.depthwise(x))
        y = self.head(x.mean((2, 3)))
        return torch.softmax(y, 1), torch.cumsum(y, 1)


def make() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = Block().eval()
    model.norm.running_mean.normal_()  # pyright: ignore[reportCallIssue, reportOptionalMemberAccess]
    return model, torch.randn(2, 3, 9, 7)


def lower(graph: Graph, **options: Any) -> CudaExecutable:
    made = graphopt.lower(graph, "cuda", **options)
    assert isinstance(made, CudaExecutable)
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 4e-3), ("bfloat16", 3e-2)])
def test_the_emitted_program_gives_the_models_numbers(dtype: str, tolerance: float) -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,)), device="cpu", dtype=dtype)
    with torch.no_grad():
        want = model(x)
    expect_close(executable(x), want, tolerance)
    first, second = executable.run([x]), executable.run([x])
    assert all(map(torch.equal, first, second)), "two runs give the same bits"
    assert first[0].data_ptr() != second[0].data_ptr(), "results are in memory of their own"


def test_what_torch_runs_is_in_the_report() -> None:
    model, x = make()
    report = lower(graphopt.capture(model, (x,))).report
    assert "%cumsum = cumsum runs by the reference lowering on the device: no kernel computes cumsum" in report


@pytest.mark.skipif(has_device(), reason="there is a GPU")
def test_without_a_gpu_there_are_plan_and_source_and_one_clear_error() -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,)))
    assert executable.plan.startswith("plan ")
    assert "@triton.jit" in executable.source
    with pytest.raises(BackendError, match=r"no CUDA device is available, and a run needs one; the plan and the source are there"):
        executable(x)


def test_sizes_that_vary_have_a_program_each() -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,), dynamic={"x": {0: "batch"}}), device="cpu")
    for batch in (2, 3):
        given = torch.randn(batch, 3, 9, 7)
        with torch.no_grad():
            expect_close(executable(given), model(given), 1e-6)
    assert [dict(sizes) for sizes in executable.programs] == [{"batch": 2}, {"batch": 3}]


def test_programs_for_several_sizes_share_their_weights() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)]
    model = torch.nn.Sequential(*layers).eval()
    graph = graphopt.capture(model, (torch.randn(4, 64),), dynamic={"input": {0: "batch"}})
    graph = graphopt.optimize(graph, ["sparsify-block{block=(16, 16), ratio=0.5}"], check="off").graph
    dense = lower(graph, device="cpu")
    dense.program({"batch": 2})
    ways = ["block sparse" if index == 1 else way for index, way in enumerate(dense.programs[("batch", 2),].chosen)]
    executable = CudaExecutable(graph, dense.options, {(("batch", size),): ways for size in (2, 3)})
    for batch in (2, 3):
        executable(torch.randn(batch, 64))
    two, three = (executable.runners[("batch", size),].memory for size in (2, 3))
    states = [name for name in two if name.startswith("s")]
    assert len(states) == len([name for name in three if name.startswith("s")]) == 8, "three biases, two weights, a packed one of three"
    assert {two[name].data_ptr() for name in states} == {three[name].data_ptr() for name in states}
    assert not {two[name].data_ptr() for name in two if name not in states} & {three[name].data_ptr() for name in three}


def test_constants_that_follow_a_size_are_not_shared() -> None:
    class Counted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.full((4,), x.shape[0], dtype=torch.float32)

    graph = graphopt.capture(Counted().eval(), (torch.ones(2, 4),), dynamic={"x": {0: "batch"}})
    executable = lower(graph, device="cpu")
    for batch in (2, 3, 2):
        assert torch.equal(executable(torch.ones(batch, 4)), torch.full((batch, 4), 1.0 + batch))


def test_runs_of_several_threads_take_turns() -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,), dynamic={"x": {0: "batch"}}), device="cpu")
    given = [torch.randn(1 + number % 2, 3, 9, 7) for number in range(6)]
    found: dict[int, Sequence[torch.Tensor]] = {}

    def run(number: int) -> None:
        found[number] = executable.run([given[number]])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for number, tensor in enumerate(given):
            expect_close(found[number], model(tensor), 1e-6)
    assert len(executable.runners) == 2


def test_a_size_that_only_the_run_knows_runs_op_by_op() -> None:
    class Positive(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().nonzero()

    x = torch.tensor([1.0, -1.0, 2.0])
    executable = lower(graphopt.capture(Positive().eval(), (x,)), device="cpu")
    assert torch.equal(executable(x), torch.tensor([[0], [2]]))
    assert "has a size that only the run knows" in executable.plan


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, x = make()
    executable = lower(graphopt.capture(model, (x,)), device="cpu", dtype="float16")
    executable.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"graph.gir", "weights.safetensors", DOCUMENT, "plan.txt", "network.py", "manifest.json"}
    loaded = graphopt.load(tmp_path / "saved")
    assert isinstance(loaded, CudaExecutable)
    assert loaded.options == executable.options
    assert (loaded.plan, loaded.source) == (executable.plan, executable.source)
    assert all(map(torch.equal, loaded.run([x]), executable.run([x])))


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    model, x = make()
    lower(graphopt.capture(model, (x,))).save(tmp_path / "saved")
    document = tmp_path / "saved" / DOCUMENT
    content = json.loads(document.read_text())
    document.write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(ArtifactError, match=f"{DOCUMENT}"):
        graphopt.load(tmp_path / "saved")


def test_options_are_checked() -> None:
    model, x = make()
    graph = graphopt.capture(model, (x,))
    with pytest.raises(BackendError, match="dtype is 'float8', needs one of float32, tf32, float16, bfloat16"):
        lower(graph, dtype="float8")
    with pytest.raises(BackendError, match="cuda has no option 'threads'"):
        lower(graph, threads=2)
    with pytest.raises(BackendError, match="device is 'tpu', needs one of cuda, cpu"):
        lower(graph, device="tpu")


def test_the_report_says_dense_only_of_weights_that_run_dense() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)]
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(4, 64)
    graph = graphopt.optimize(model, ["sparsify-block{block=(16, 16), ratio=0.5}"], example_inputs=(x,)).graph
    dense = graphopt.lower(graph, "cuda")
    assert isinstance(dense, CudaExecutable)
    (note,) = (line for line in dense.report if "annotated" in line)
    assert note == "%2.weight is annotated sparse<block 16x16 0.5> and runs dense: nothing was measured, and dense is the default"
    ways = ["block sparse" if index == 1 else way for index, way in enumerate(dense.programs[()].chosen)]
    sparse = CudaExecutable(graph, dense.options, {(): ways})
    assert any("block sparse" in line for line in sparse.report)
    assert not any("annotated" in line for line in sparse.report)
    again = CudaExecutable(graph, dense.options, {(): dense.programs[()].chosen})
    assert "%2.weight is annotated sparse<block 16x16 0.5> and runs dense: that is how it was chosen where it was saved" in again.report


def test_the_report_says_dense_was_faster_only_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)]
    graph = graphopt.optimize(
        torch.nn.Sequential(*layers).eval(), ["sparsify-block{block=(16, 16), ratio=0.5}"], example_inputs=(torch.randn(4, 64),)
    ).graph

    def planned(graph: Graph, sizes: Mapping[str, int], options: CudaOptions, choose: object = None) -> Program:
        return plan_graph(graph, sizes, options, lambda ways: (0, "measured 1.0 us; others"))

    monkeypatch.setattr("graphopt.backends.cuda.executable.plan_graph", planned)
    (note,) = (line for line in lower(graph).report if "annotated" in line)
    assert note.endswith("runs dense: no sparse kernel was measured to be faster here")


def test_a_program_without_triton_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make()
    graph = graphopt.capture(model, (x,))
    executable = lower(graph, device="cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]
    require_triton.cache_clear()
    for wrong in (lambda: executable(x), lambda: measured_choice(CudaOptions()), lambda: require_device("cpu")):
        with pytest.raises(BackendError, match="the backend cuda needs Triton, which is not installed"):
            wrong()


def two_of_four(dtype: str) -> tuple[graphopt.Graph, CudaExecutable, torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8)]
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(2, 3, 64)
    graph = graphopt.optimize(model, ["sparsify-n-m{n=2, m=4}"], example_inputs=(x,)).graph
    lowered = graphopt.lower(graph, "cuda", dtype=dtype, device="cpu")
    assert isinstance(lowered, CudaExecutable)
    return graph, lowered, x


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_with_two_of_four_are_offered_as_such(dtype: str, tmp_path: Path) -> None:
    graph, dense, x = two_of_four(dtype)
    assert any("%2.weight is annotated sparse<2:4 axis=1 0.5> and runs dense" in line for line in dense.report)
    assert dense.programs[()].chosen == ("linear",), "the other layers have one way"
    sparse = CudaExecutable(graph, dense.options, {(): ["2:4"]})
    assert "library             linear_2_4 6 x 64->96 + bias" in str(sparse.programs[()].plan)
    assert not any("annotated" in line for line in sparse.report)
    assert torch.equal(sparse(x), dense(x)), "on a CPU it is the same product"
    sparse.save(tmp_path / "saved")
    loaded = graphopt.load(tmp_path / "saved")
    assert isinstance(loaded, CudaExecutable)
    assert loaded.programs[()].chosen == ("2:4",)
    assert torch.equal(loaded(x), dense(x))


def test_two_of_four_needs_sixteen_bits() -> None:
    _, dense, _ = two_of_four("float32")
    assert dense.programs[()].chosen == ()
    assert any(line.endswith("runs dense: no sparse kernel takes its op, shape, pattern and dtype") for line in dense.report)


@pytest.mark.parametrize(
    ("annotation", "shape", "numbers"),
    [
        ("2:4 axis=1 0.5", (64, 64), torch.ones(64, 64)),
        ("2:4 axis=0 0.5", (64, 64), torch.zeros(64, 64)),
        ("1:4 axis=1 0.75", (64, 64), torch.zeros(64, 64)),
        ("2:4 axis=1 0.5", (40, 64), torch.zeros(40, 64)),
        ("2:4 axis=1 0.5", (64, 64), None),
    ],
    ids=["numbers break it", "other axis", "other pattern", "shape", "no numbers"],
)
def test_two_of_four_is_offered_only_where_it_fits(annotation: str, shape: tuple[int, int], numbers: torch.Tensor | None) -> None:
    weight = f"f32[{shape[0]},{shape[1]}] sparse<{annotation}>"
    product = f"%y: f32[2,{shape[0]}] = linear(%x, %w, none)"
    text = f"graph g(%x: f32[2,64]) {{\n  param %w: {weight}\n  {product}\n  return %y\n}}\n"
    graph = graphopt.parse(text)
    if numbers is not None:
        GraphEditor(graph).update_state(replace(graph.states["w"], data=TensorData(numbers)))
    offered: list[str] = []

    def note(ways: Sequence[Way]) -> tuple[int, str]:
        offered.extend(way.name for way in ways)
        return 0, ""

    plan_graph(graph, {}, CudaOptions(dtype="float16"), note)
    assert "linear" in offered
    assert "2:4" not in offered
