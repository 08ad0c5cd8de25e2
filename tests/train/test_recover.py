"""recover(): what is learned, what is kept, and that it is the same after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.sparsity import sparsity
from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.verifier import verify_structure
from graphopt.train import SparseSGD, masks_of, recover
from graphopt.train.recovery.checkpoint import read

ROWS = 8


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval()


def capture(module: nn.Module) -> graphopt.Graph:
    return graphopt.capture(module, (torch.randn(ROWS, 1, 4, 4),), dynamic={"input": {0: "batch"}})


def sparse(seed: int = 0, ratio: float = 0.6) -> nn.Sequential:
    module = network(seed)
    with torch.no_grad():
        weight = module.get_parameter("5.weight")
        weight[weight.abs() < weight.abs().flatten().quantile(ratio)] = 0.0
    return module


def batches(count: int = 4, labels: bool = False, rows: int = ROWS) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(rows, 1, 4, 4, generator=generator) for _ in range(count)]
    return [(x, (x.sum((1, 2, 3)) > 0).long()) for x in made] if labels else made


def distance(first: nn.Module, second: nn.Module) -> float:
    x = torch.cat(batches())
    with torch.no_grad():
        return float((first(x) - second(x)).square().mean())


def bits(module: nn.Module) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in module.state_dict().values()]


@pytest.fixture(scope="module")
def student() -> graphopt.Graph:
    return capture(sparse())


@pytest.fixture(scope="module")
def teacher() -> graphopt.Graph:
    return capture(network())


def test_the_outputs_come_back_and_zeros_stay(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    before = bits(student.to_module()), bits(teacher.to_module())
    found = recover(student, batches(), teacher=teacher, distillation="mse", epochs=10, lr=0.05, accelerate=False)
    assert distance(found.module, network()) < 0.5 * distance(sparse(), network())
    assert torch.equal(masks_of(found.module)["5.weight"], masks_of(student)["5.weight"])
    assert (bits(student.to_module()), bits(teacher.to_module())) == before  # what was given is as it was
    assert found.graph is not None
    assert bits(found.graph.to_module()) == bits(found.module)
    assert found.steps == 40
    assert str(found).startswith("40 steps, weights of step 40\n  step 40  loss ")


@pytest.fixture(scope="module")
def annotated() -> graphopt.Graph:
    """A graph with a weight in blocks of zeros and one 2:4 sparse, annotated."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    passes = ['sparsify-block{block=(4, 1), ratio=0.5, only=("1",), dense_ends=false}', 'sparsify-n-m{n=2, m=4, only=("3",)}']
    return graphopt.optimize(module, passes, example_inputs=(torch.randn(ROWS, 1, 4, 4),), dynamic={"input": {0: "batch"}}).graph


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_any_optimizer_keeps_zeros_and_annotations_true(make: Any, annotated: graphopt.Graph) -> None:
    def optimizer(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        return make([parameter for _, parameter in named], lr=0.05, weight_decay=0.01)

    found = recover(annotated, batches(labels=True), epochs=2, optimizer=optimizer, accelerate=False)
    assert found.graph is not None
    assert found.corrected == ()
    masks = masks_of(annotated)
    assert sorted(masks) == ["1.weight", "3.weight"]
    for name, mask in masks.items():
        assert found.graph.states[name].type == annotated.states[name].type
        weight = found.module.get_parameter(name).detach()
        assert (weight[~mask].view(torch.int32) == 0).all()
        assert not torch.equal(weight, annotated.to_module().get_parameter(name))
    assert [statistics.holds for statistics in sparsity(found.graph) if statistics.holds is not None] == [True, True]


def test_annotations_that_are_trained_away_are_corrected(annotated: graphopt.Graph) -> None:
    def dense(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        masks = {name: mask for name, mask in masks_of(annotated).items() if name == "3.weight"}
        masks["3.weight"] = masks["3.weight"] & (torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) < 0.9)
        masks["3.weight"][0, :4] = True  # not 2:4 any more, and still sparse
        return SparseSGD(named, lr=0.05, masks=masks)

    found = recover(annotated, batches(labels=True), epochs=2, optimizer=dense, accelerate=False)
    assert found.graph is not None
    assert found.graph.states["1.weight"].type.sparsity is None
    kept = found.graph.states["3.weight"].type.sparsity
    assert kept is not None and kept.pattern.value == "unstructured"  # noqa: PT018  # one statement about one thing
    assert [line.split(" now, was ")[0] for line in found.corrected] == ["%1.weight is dense", f"%3.weight is {kept.text}"]
    assert found.corrected[0] in str(found)
    assert list(masks_of(found.module)) == ["3.weight"]
    verify_structure(found.graph)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_module_is_trained_like_its_graph(optimizer: Any, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"steps": 6, "optimizer": optimizer, "accelerate": False, "weight_decay": 0.01}
    as_graph = recover(student, batches(labels=True), teacher=teacher, **options)
    as_module = recover(sparse(), batches(labels=True), teacher=network(), **options)
    assert as_module.graph is None
    for first, second in zip(as_graph.module.state_dict().values(), as_module.module.state_dict().values(), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def test_the_original_of_a_result_is_the_teacher() -> None:
    result = graphopt.optimize(network(), ["lossless-training"], example_inputs=(torch.randn(ROWS, 1, 4, 4),))
    found = recover(result, batches(), steps=1, accelerate=False)
    assert found.history[-1].loss is not None


def test_features_by_name(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 3, "accelerate": False, "batch_norm_batches": 0}
    plain = recover(student, batches(), **options)
    with_features = recover(student, batches(), features=("1*",), **options)
    assert plain.history[-1].loss != with_features.history[-1].loss
    only = recover(student, batches(), features=("*",), distillation_weight=0.0, **options)
    assert only.history[-1].loss is not None


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generator(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches())), batch_size=ROWS, shuffle=True)
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    first, second, other = (recover(student, loader, teacher=teacher, epochs=2, seed=seed, accelerate=False) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert bits(first.module) == bits(second.module)
    assert bits(first.module) != bits(other.module)


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate_computes_the_same_on_one_device(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    first, second = (recover(student, batches(labels=True), teacher=teacher, epochs=1, accelerate=choice) for choice in (False, True))
    assert bits(first.module) == bits(second.module)


PROCESS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import torch
from tests.train.test_recover import batches, bits, network, sparse
from graphopt.train import recover
found = recover(sparse(), batches(4), teacher=network(), epochs=2, metric=lambda module: 0.0, evaluate_every=1)
digest = hashlib.sha256(b"".join(bits(found.module))).hexdigest()
torch.distributed.destroy_process_group()  # else its threads may end the process as they are torn down
sys.stdout.write(f"{found.steps} steps, {int((found.module.get_parameter('5.weight') == 0).sum())} zeros, {digest}\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_two_processes_share_the_batches_and_end_with_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
        str(Path(__file__).parents[2]),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == second
    zeros = int((sparse().get_parameter("5.weight") == 0).sum())
    assert first.startswith(f"4 steps, {zeros} zeros, "), "half of the steps that one process takes: 4 batches, 2 epochs"


class Labelled(nn.Module):
    """A token classifier: one prediction for each of four positions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return self.second(self.first(input).tanh())


@pytest.mark.parametrize("own_loss", [False, True])
@pytest.mark.parametrize("distillation", ["kl", "mse"])
def test_micro_batches_have_the_gradients_of_the_whole(distillation: Any, own_loss: bool) -> None:
    """Features of very different sizes, and rows with few labels or none, so that equal weights of pieces would be wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, 4, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 7, dtype=torch.float64)[:, None, None]
    labels = torch.randint(0, 3, (7, 4), generator=generator)
    labels[torch.rand(7, 4, generator=generator) < 0.5] = -100
    labels[:3] = -100
    both = [graphopt.capture(Labelled(seed).double().eval(), (x,), dynamic={"input": {0: "batch"}}) for seed in (0, 1)]

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((outputs.sum((1, 2)) - target.clamp(min=0).sum(1)) ** 2).mean()

    options: dict[str, Any] = {"teacher": both[1], "steps": 2, "features": ("first", "tanh*"), "distillation": distillation}
    options |= {"optimizer": lambda named: torch.optim.SGD([p for _, p in named], lr=0.5), "accelerate": False}  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]
    options |= {"loss": loss} if own_loss else {}
    whole = recover(both[0], [(x, labels)], **options)
    for rows in (1, 3, 7):
        pieces = recover(both[0], [(x, labels)], micro_batch=rows, **options)
        for name, weight in whole.module.named_parameters():
            assert torch.allclose(pieces.module.get_parameter(name), weight, rtol=1e-12, atol=1e-14), (rows, name)
        assert pieces.history[-1].loss == pytest.approx(whole.history[-1].loss, rel=1e-12)


def test_a_batch_without_any_label_teaches_nothing() -> None:
    module = Labelled(0)
    nothing = torch.full((2, 4), -100)
    found = recover(module, [(torch.randn(2, 4, 4), nothing)], steps=1, accelerate=False)
    assert bits(found.module) == bits(module)


def test_micro_batches_of_what_mixes_rows_are_refused(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    for model, name in ((student, "batch_norm|1"), (sparse(), "1"), (student.to_module(), "1")):
        with pytest.raises(UsageError, match=rf"micro_batch was given, and '({name})' is a batch norm: .*\n  fix: batch_norms=\"frozen\""):
            recover(model, batches(), teacher=network(), micro_batch=4, accelerate=False)

    class Frozen(nn.Sequential):
        """Leaves its batch norm in eval mode, as fine-tuning often does."""

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[1].eval()
            return self

    recover(Frozen(*sparse()), batches(), teacher=network(), micro_batch=4, batch_norm_batches=0, steps=1, accelerate=False)
    fixed = graphopt.capture(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(), (torch.randn(8, 1, 4, 4),))
    with pytest.raises(UsageError, match=r"micro_batch is 4, and the graph was captured for batches of 8 rows alone\n  fix: capture with"):
        recover(fixed, batches(), teacher=network(), micro_batch=4, accelerate=False)


class Deep(nn.Module):
    """Blocks with a path around each, batch norms and dropout."""

    def __init__(self, seed: int, blocks: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 8)) for _ in range(blocks))
        self.dropout = nn.Dropout(0.2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        for block in self.blocks:
            input = input + self.dropout(block(input))  # noqa: A001
        return input


def deep(seed: int) -> graphopt.Graph:
    x = torch.randn(4, 8, dtype=torch.float64)
    return graphopt.capture(Deep(seed).double().eval(), (x,), dynamic={"input": {0: "batch"}})


def test_activations_are_computed_again_with_the_same_gradients(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (64, 32, 96, 64)]
    options: dict[str, Any] = {"teacher": deep(1), "epochs": 2, "distillation": "mse", "features": ("add*",), "accelerate": False}
    options |= {"measure_memory": True, "lr": 0.02}
    plain = recover(deep(0), data, **options)
    least = recover(deep(0), data, activation_memory="least", **options)
    assert plain.plan is None
    assert least.plan is not None
    assert least.plan.again >= 2
    assert f"  {least.plan}" in str(least)
    for name, tensor in plain.module.state_dict().items():
        assert torch.allclose(least.module.state_dict()[name], tensor, rtol=1e-11, atol=1e-13), name
    assert plain.peak_bytes is not None
    assert least.peak_bytes is not None
    assert least.peak_bytes < 0.75 * plain.peak_bytes
    budget = (least.plan.bytes + least.plan.without) // 2
    some = recover(deep(0), data, activation_memory=budget, checkpoint=tmp_path / "some", **options)
    assert some.plan is not None
    assert least.plan.bytes < some.plan.bytes <= budget
    assert recover(deep(0), data, activation_memory=budget, checkpoint=tmp_path / "some", **options).plan == some.plan
    with pytest.raises(UsageError, match=r"need .* at least with checkpoints, 1.* are allowed\n  fix: use smaller batches"):
        recover(deep(0), data, activation_memory=1, **options)


def test_time_and_memory_of_steps_are_reported(student: graphopt.Graph, teacher: graphopt.Graph, tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 4, "accelerate": False, "checkpoint": tmp_path / "done"}
    found = recover(student, batches(), measure_memory=True, **options)
    assert found.seconds_per_step is not None
    assert found.seconds_per_step > 0
    assert found.peak_bytes is not None
    weights = sum(parameter.numel() * 4 for parameter in found.module.parameters())
    assert weights < found.peak_bytes < 100 * weights + 4 * ROWS * 64 * 40  # gradients at least, and activations of both networks
    assert f"  {found.seconds_per_step:.3g} s per step, " in str(found)
    assert str(found).endswith(" of memory at its peak")
    again = recover(student, batches(), **options)  # finished: no step is taken
    assert (again.seconds_per_step, again.peak_bytes) == (None, None)
    assert " s per step" not in str(again)


def test_a_graph_of_fixed_rows_takes_larger_batches() -> None:
    graph = graphopt.capture(network(), (torch.randn(4, 1, 4, 4),))
    found = recover(graph, [*batches(2), torch.randn(3, 1, 4, 4)], teacher=network(1), epochs=1, accelerate=False)
    assert found.steps == 2


def test_the_best_weights_are_kept_and_it_stops_early(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    scores = iter([0.5, 0.7, 0.9, 0.6, 0.8, 0.1, 0.1])
    seen: list[list[bytes]] = []

    def metric(module: nn.Module) -> float:
        assert not module.training
        seen.append(bits(module))
        return next(scores)

    found = recover(student, batches(), teacher=teacher, steps=40, metric=metric, evaluate_every=2, patience=2, accelerate=False)
    assert found.stopped_early
    assert (found.steps, found.best_step) == (8, 4)
    assert [entry.metric for entry in found.history] == [0.5, 0.7, 0.9, 0.6, 0.8, 0.1]
    assert found.history[-1].note == "batch norms estimated again, not kept"
    assert bits(found.module) == seen[2]


def test_it_is_never_worse_than_at_the_start(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(
        student, batches(), teacher=teacher, epochs=1, lr=5.0, metric=lambda module: -distance(module, network()), accelerate=False
    )
    assert distance(found.module, network()) <= distance(sparse(), network())


def test_batch_norms_are_estimated_again(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(student, batches(), teacher=teacher, epochs=1, accelerate=False).module
    with torch.no_grad():
        parts = [nn.functional.conv2d(x, found.get_parameter("0.weight"), found.get_parameter("0.bias"), padding=1) for x in batches()]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    var = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(found.get_buffer("1.running_mean"), mean, atol=1e-5)
    assert torch.allclose(found.get_buffer("1.running_var"), var, rtol=1e-4)
    module = recover(sparse(), batches(), teacher=network(), epochs=1, accelerate=False).module
    assert torch.allclose(module.get_buffer("1.running_mean"), mean, atol=1e-4)


@pytest.mark.parametrize("features", [(), ("1", "2")])
def test_frozen_batch_norms_stay_and_are_used(student: graphopt.Graph, teacher: graphopt.Graph, features: tuple[str, ...]) -> None:
    """Training is that of the same network in eval mode; pieces of batches have the gradients of the whole."""
    options: dict[str, Any] = {"batch_norms": "frozen", "optimizer": "sgd", "lr": 0.05, "steps": 4, "seed": 3, "accelerate": False}
    graph = recover(student, batches(), teacher=teacher, features=features, **options)
    pieces = recover(student, batches(), teacher=teacher, features=features, micro_batch=3, **options)
    module = recover(sparse(), batches(), teacher=network(), **options).module
    before = dict(sparse().named_buffers())
    trained = dict(graph.module.named_parameters())
    for found in (graph.module, pieces.module, module):
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(found.get_buffer(name), before[name])
        for name, parameter in found.named_parameters():
            if not features or found is not module:
                torch.testing.assert_close(parameter, trained[name], rtol=1e-4, atol=1e-6)
    assert distance(graph.module, network()) < distance(sparse(), network())
    assert graph.graph is not None
    assert 'mode="follow"' in str(graph.graph), "the graph that comes out can be trained on with batch norms that follow"
    with pytest.raises(UsageError, match=r"batch_norms is 'frozen', and '.*' computes with the statistics of its batch"):
        recover(graph.module, batches(), teacher=network(), batch_norms="frozen", steps=1, accelerate=False)
    with pytest.raises(UsageError, match="batch_norms is 'eval', needs 'train' or 'frozen'"):
        recover(student, batches(), teacher=teacher, batch_norms="eval", steps=1, accelerate=False)  # pyright: ignore[reportArgumentType]


def test_layers_are_reconstructed_without_labels(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(student, batches(12), teacher=teacher, layerwise=True, steps=0, batch_norm_batches=0, accelerate=False)
    assert found.reconstructed == ("5",)  # the convolution is the teacher's already
    assert torch.equal(masks_of(found.module)["5.weight"], masks_of(student)["5.weight"])
    assert distance(found.module, network()) < 0.5 * distance(sparse(), network())


SCRIPT = """
import sys, time, torch
from torch import nn
from graphopt.train import recover

torch.set_num_threads(1)
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
torch.manual_seed(1)
student = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
with torch.no_grad():
    student[4].weight[:, ::2] = 0.0

class Slow(torch.utils.data.Dataset):
    def __len__(self): return 48
    def __getitem__(self, index):
        time.sleep(float(sys.argv[2]))
        return torch.randn(6) + index  # drawn anew: from the seed too

loader = torch.utils.data.DataLoader(Slow(), batch_size=4, shuffle=True)
def metric(module):
    with torch.no_grad():
        return -float((module(torch.ones(2, 6)) - teacher(torch.ones(2, 6))).square().mean())
found = recover(student, loader, teacher=teacher, epochs=3, metric=metric, evaluate_every=7, optimizer="adamw", lr=0.01,
                checkpoint=sys.argv[1], checkpoint_every=5, accelerate=False)
torch.save({"weights": found.module.state_dict(), "resumed": found.resumed_at, "steps": found.steps, "best": found.best_step,
            "history": [str(entry) for entry in found.history]}, sys.argv[1] + ".result")
"""


def kill_behind(process: subprocess.Popen[bytes], file: Path, place: int, enough: int) -> int:
    """Kill -9 as soon as a number of the checkpoint's place is large enough; returns what it was."""
    deadline = time.monotonic() + 200
    seen = 0
    while seen < enough and time.monotonic() < deadline and process.poll() is None:
        if file.exists():
            seen = int(read(file)[2]["place"][place])
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return seen


def test_a_kill_loses_at_most_one_interval(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(name: str, pause: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(tmp_path / name), str(pause)], stderr=subprocess.PIPE)

    whole_run = start("whole.pt", 0.0)
    killed = start("killed.pt", 0.02)
    seen = kill_behind(killed, tmp_path / "killed.pt", 0, 10)
    assert seen >= 10

    for process in (whole_run, start("killed.pt", 0.0)):
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error.decode()
    resumed, whole = (torch.load(tmp_path / f"{name}.pt.result", weights_only=True) for name in ("killed", "whole"))
    assert resumed["resumed"] >= seen
    assert whole["resumed"] == 0
    assert resumed["steps"] == whole["steps"] == 36
    assert resumed["history"] == whole["history"]
    assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())
    assert not resumed["weights"]["4.weight"][:, ::2].any()


def test_layers_that_are_done_are_not_done_again(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "layerwise": True, "steps": 2, "accelerate": False}
    whole = recover(student, batches(12), **options)

    class Killed(BaseException):
        pass

    file = tmp_path / "layers.pt"

    class Fragile(list[Any]):
        """Data that is gone when training starts, behind the layers."""

        def __iter__(self) -> Iterator[Any]:
            if file.exists() and read(file)[2]["place"][6] == 2:
                raise Killed
            return super().__iter__()

    with pytest.raises(Killed):
        recover(student, Fragile(batches(12)), checkpoint=file, **options)
    resumed = recover(student, batches(12), checkpoint=file, **options)
    assert resumed.reconstructed == whole.reconstructed == ("5",)
    assert bits(resumed.module) == bits(whole.module)


LAYERS = """
import sys, time, torch
from torch import nn
import graphopt
from graphopt.train import recover
from graphopt.train.recovery import layers

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(256, 8)
teacher = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(8, 8), nn.Tanh())]).eval()
passes = ["sparsify-magnitude{ratio=0.5, dense_ends=false}"]
result = graphopt.optimize(teacher, passes, example_inputs=(x[:4],), dynamic={"input": {0: "batch"}})
fit, fitted = layers._fit, []

def slow(student, node, *rest):
    time.sleep(float(sys.argv[2]))
    fitted.append(node.name)
    return fit(student, node, *rest)

layers._fit = slow
found = recover(result, list(x.split(32)), layerwise=True, steps=4, checkpoint=sys.argv[1], accelerate=False)
torch.save({"weights": found.module.state_dict(), "fitted": fitted, "reconstructed": list(found.reconstructed)}, sys.argv[1] + ".result")
"""


def test_a_kill_between_layers_loses_at_most_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LAYERS)

    def start(name: str, pause: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(tmp_path / name), str(pause)], stderr=subprocess.PIPE)

    whole_run = start("whole.pt", 0.0)
    killed = start("killed.pt", 0.3)
    seen = kill_behind(killed, tmp_path / "killed.pt", 6, 2)
    assert 2 <= seen < 6

    for process in (whole_run, start("killed.pt", 0.0)):
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error.decode()
    resumed, whole = (torch.load(tmp_path / f"{name}.pt.result", weights_only=True) for name in ("killed", "whole"))
    assert len(whole["fitted"]) == 6
    assert 1 <= len(resumed["fitted"]) <= 6 - seen
    assert resumed["fitted"] == whole["fitted"][-len(resumed["fitted"]) :]
    assert resumed["reconstructed"] == whole["reconstructed"]
    assert len(whole["reconstructed"]) >= 3
    assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())


def test_a_finished_run_returns_at_once(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 3, "checkpoint": tmp_path / "done.pt", "accelerate": False}
    other: dict[str, Any] = {**options, "steps": 4}
    first = recover(student, batches(), **options)
    second = recover(student, iter(()), **options)
    assert second.resumed_at == 3
    assert bits(first.module) == bits(second.module)
    text = r"done.pt is that of another run: the model, the teacher or an option differs\n  fix: give the same arguments"
    cases: tuple[tuple[graphopt.Graph, dict[str, Any]], ...] = (
        (student, other),
        (capture(sparse(ratio=0.5)), options),
        (student, {**options, "teacher": capture(network(1))}),
        (student, {**options, "loss": nn.functional.cross_entropy}),
    )
    for model, given in cases:
        with pytest.raises(UsageError, match=text):
            recover(model, batches(), **given)
    (tmp_path / "done.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ArtifactError, match=r"done.pt can't be read: .*\n  fix: delete it|(?s:done.pt can't be read)"):
        recover(student, batches(), **options)


def test_bad_data_gives_one_clear_error(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    def error(data: object, **options: Any) -> str:
        given: dict[str, Any] = {"teacher": teacher, "accelerate": False, **options}
        with pytest.raises(UsageError) as caught:
            recover(student, data, **given)
        return str(caught.value)

    assert error([]).startswith("training data is empty: no batch came out of the list\n  fix: give at least one batch")
    spent = iter(batches(1))
    next(spent)
    assert "a generator can be gone through once" in error(spent, steps=1)
    assert "The length of training data".lower() in error(iter(batches()), epochs=1).lower()
    nan = batches(2)
    nan[1][0, 0, 1, 2] = float("nan")
    assert error(nan).startswith("training batch 1: %input has 1 NaN or infinite values among 128, the first at (0, 0, 1, 2)\n  fix: clean")
    assert error([torch.randn(8, 2, 4, 4)]).startswith("training batch 0: ")
    assert "f64" in error([torch.randn(8, 1, 4, 4, dtype=torch.float64)])
    assert "labels go from 0 to 7, the output has 3 classes\n  fix: number the classes from 0 to 2, and give -100 to" in error(
        [(batches(1)[0], torch.arange(8))]
    )
    assert "labels of shape [2] fit none of the outputs ([8, 3])" in error([(batches(1)[0], torch.ones(2).long())])
    assert "labels has 8 NaN" in error([(batches(1)[0], torch.full((8,), float("nan")))])
    assert "is the dataset TensorDataset, which gives samples" in error(torch.utils.data.TensorDataset(batches(1)[0]))
    assert "training data is a int, needs a DataLoader" in error(3)

    def broken() -> Iterator[torch.Tensor]:
        yield batches(1)[0]
        raise OSError("disk")

    assert error(broken(), steps=5).startswith("training data raised OSError at batch 1: disk")
    fixed = graphopt.capture(network(), (torch.randn(16, 1, 4, 4),))
    with pytest.raises(UsageError, match=r"training data has no batch that fits: fewer rows than the graph was captured with"):
        recover(fixed, batches(), teacher=teacher, accelerate=False)


def test_arguments_that_make_no_sense_say_so(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    def error(model: object = student, data: object = None, **options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            recover(model, data or batches(), accelerate=False, **options)
        return str(caught.value)

    assert error().startswith(
        "there is nothing to learn from: no teacher, and no labels in the data, or their weights are 0\n  fix: pass teacher=original"
    )
    assert error(3).startswith("the student is a int, needs a result of optimize, a graph or a module")
    assert error(teacher="resnet").startswith("the teacher is a str")
    text = "graph g(%x: f32[1,4]) {\n  param %w: f32[4,4]\n  %y: f32[1,4] = linear(%x, %w, none)\n  return %y\n}\n"
    assert error(graphopt.parse(text)).startswith("the student has no numbers for %w")
    assert "epochs=1 and steps=1 were both given" in error(epochs=1, steps=1)
    assert "steps is 0, needs at least 1" in error(steps=0)
    assert "patience and evaluate_every were given without a metric" in error(patience=1)
    assert "lr_schedule is 'linear', needs 'cosine' or 'constant'" in error(lr_schedule="linear")
    assert "optimizer is 'lion', needs 'sgd', 'adamw'" in error(teacher=teacher, optimizer="lion")
    assert "lr is -1, needs > 0" in error(teacher=teacher, lr=-1.0)
    assert "distillation is 'cosine', needs 'kl'" in error(teacher=teacher, distillation="cosine")
    assert "temperature is 0 and the weights are" in error(teacher=teacher, temperature=0.0)
    assert "features='nothing*' is no value that student and teacher have" in error(teacher=teacher, features=("nothing*",))
    assert "features are values of graphs by name" in error(sparse(), teacher=network(), features=("*",))
    assert "layerwise compares layers of two graphs" in error(sparse(), teacher=network(), layerwise=True)
    assert "the student's outputs have the shapes [[8, 3]], the teacher's [[8, 2]]" in error(
        sparse(), teacher=nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    )
    assert "can't be written\n  fix: give a file in a folder that exists" in error(teacher=teacher, checkpoint=tmp_path / "no" / "c.pt")
    assert "activation_memory is 0, needs bytes or 'least'" in error(teacher=teacher, activation_memory=0)
    assert "activation_memory is planned by a graph, and the student is a module" in error(
        sparse(), teacher=network(), activation_memory="least"
    )
    assert "the student has no parameter that could be trained" in error(nn.ReLU(), teacher=network())
    assert "the loss became inf at step 1\n  fix: use a smaller lr" in error(teacher=teacher, lr=1e30, distillation="mse", epochs=5)
    assert "the metric raised ZeroDivisionError" in error(teacher=teacher, metric=lambda _: 1 / 0)  # pyright: ignore[reportUnknownLambdaType]
    assert "the metric returned a str, needs one number" in error(teacher=teacher, metric=lambda _: "good")  # pyright: ignore[reportUnknownLambdaType]
    assert "the metric is nan, needs a finite number" in error(teacher=teacher, metric=lambda _: float("nan"))  # pyright: ignore[reportUnknownLambdaType]
