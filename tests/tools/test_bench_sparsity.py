"""The sparsity benchmark: zeros that methods promise, runs that are resumed, targets, the page, errors of the command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from tests.tools.tiny_task import TinyTask
from tools.bench_quality.findings import verdict
from tools.bench_quality.records import DENSE, Key, Run, load_runs, pack, save_run, write_document
from tools.bench_quality.statistics import Difference
from tools.bench_quality.tasks import TASKS
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task
from tools.bench_sparsity.__main__ import main
from tools.bench_sparsity.deploy import INT8, Served, folder_for, keep_graph, run_int8
from tools.bench_sparsity.latency import Latencies, contenders, load_latencies, measure
from tools.bench_sparsity.methods import ARMS
from tools.bench_sparsity.methods.arm import Arm, Sparse
from tools.bench_sparsity.points import board, timing_name
from tools.bench_sparsity.runs import run_arm, run_dense
from tools.bench_sparsity.subject import Subject, zeros_of
from tools.bench_sparsity.targets import TARGETS

OBS, MAGNITUDE, TORCH = "ours: obs", "ours: magnitude", "torch prune, local"
SCORE = "within 50 cents"


class DeepTask(TinyTask):
    """Two layers between the ends, and labels for calibration."""

    schedule = Schedule(steps=150, rate=3e-3)

    def dense(self) -> nn.Module:
        torch.manual_seed(3)
        layers = [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(32, 3)).eval()

    def calibration(self, seed: int) -> list[Item]:
        return [Item(item.inputs, item.inputs[0].argmax(1) % 3) for item in super().calibration(seed)]

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert output.shape == teacher.shape
        return super().loss(output, teacher, target)


def distance_from(dense: nn.Module, module: nn.Module) -> float:
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return float((dense(x) - module(x)).square().mean())


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(DeepTask(Path("unused")))


# --- methods ---------------------------------------------------------------------------------------------------------


def test_layers_are_those_between_the_ends(subject: Subject) -> None:
    assert subject.layers == ("2", "4")


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if not arm.shrinks])
def test_methods_make_the_zeros_that_they_promise_and_keep_them(subject: Subject, name: str) -> None:
    if name.startswith("NNCF"):
        pytest.importorskip("nncf")
    arm = ARMS[name]
    ratio = 0.8 if 0.8 in arm.ratios else arm.ratios[0]
    sparse = arm.sparsify(subject, ratio, 0)
    before = sparse.finished()
    assert zeros_of(before, subject.layers) == pytest.approx(ratio, abs=0.002)
    dense = subject.task.dense()
    for end in ("0", "6"):
        assert torch.equal(before.get_parameter(f"{end}.weight"), dense.get_parameter(f"{end}.weight"))
    distance = distance_from(dense, before)
    masks = {layer: before.get_parameter(f"{layer}.weight") == 0 for layer in subject.layers}
    sparse.tune(subject, 0)
    after = sparse.finished()
    assert not after.training
    for layer, mask in masks.items():
        assert torch.equal(after.get_parameter(f"{layer}.weight") == 0, mask)
    assert distance_from(dense, after) < distance


def test_shrunk_networks_are_smaller_and_are_trained_for_longer(tmp_path: Path) -> None:
    class Wide(DeepTask):
        batch = 8
        width = 16
        schedule = Schedule(steps=5, rate=1e-4)

        def dense(self) -> nn.Module:
            torch.manual_seed(3)
            return nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3)).eval()

    mine = Subject(Wide(tmp_path))
    arm = ARMS["ours: shrunk, obs 80 %"]
    sparse = arm.sparsify(mine, 0.6, 0)
    dense, module = mine.task.dense(), sparse.finished()
    assert sum(tensor.numel() for tensor in module.parameters()) < sum(tensor.numel() for tensor in dense.parameters())
    assert zeros_of(module, mine.layers) == pytest.approx(0.8, abs=0.002)
    distance = distance_from(dense, module)
    sparse.tune(mine, 0)
    assert len(mine.lessons(0, arm.recovery)) == 25
    assert distance_from(dense, sparse.finished()) < distance
    assert arm.at(0.6) == "0.6 of the time"


def test_magnitude_is_the_same_method_everywhere(subject: Subject) -> None:
    ours, theirs = (ARMS[name].sparsify(subject, 0.5, 0).finished() for name in (MAGNITUDE, TORCH))
    for layer in subject.layers:
        assert torch.equal(ours.get_parameter(f"{layer}.weight"), theirs.get_parameter(f"{layer}.weight"))


@pytest.mark.parametrize("name", ["ours: obs, 4x1", "ours: block 4x1"])
def test_blocks_are_whole(subject: Subject, name: str) -> None:
    module = ARMS[name].sparsify(subject, 0.5, 0).finished()
    zero = (module.get_parameter("2.weight") == 0).view(8, 4, 32)
    assert torch.equal(zero.all(1), zero.any(1))


@pytest.mark.parametrize("name", [OBS, TORCH, "NNCF, local"])
@pytest.mark.parametrize(("rate", "gentle"), [(5.0, 3e-3), (3e-3, 5.0)])
def test_the_rate_counts_that_is_better_on_validation_data(tmp_path: Path, name: str, rate: float, gentle: float) -> None:
    if name.startswith("NNCF"):
        pytest.importorskip("nncf")

    class TwoRates(DeepTask):
        schedule = Schedule(steps=60, rate=rate, gentle_rate=gentle)

    mine = Subject(TwoRates(tmp_path))
    tuned, alone = ARMS[name].sparsify(mine, 0.5, 0), ARMS[name].sparsify(mine, 0.5, 0)
    tuned.tune(mine, 0)
    alone.train(mine, 0, 3e-3)
    wanted = alone.finished().state_dict()
    for key, tensor in tuned.finished().state_dict().items():
        assert torch.equal(tensor, wanted[key]), key


def test_labels_reach_the_loss_of_recovery(tmp_path: Path) -> None:
    seen: list[tuple[torch.Size, torch.dtype]] = []

    class Labelled(DeepTask):
        def stream(self, seed: int) -> Iterator[Item]:
            for item in super().stream(seed):
                yield Item(item.inputs, item.inputs[0].argmax(1) % 3)

        def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
            assert target is not None
            seen.append((target.shape, target.dtype))
            return nn.functional.cross_entropy(output, target)

    mine = Subject(Labelled(tmp_path))
    ARMS[MAGNITUDE].sparsify(mine, 0.5, 0).tune(mine, 0)
    assert seen == [(torch.Size([64]), torch.int64)] * Labelled.schedule.steps


# --- runs ------------------------------------------------------------------------------------------------------------


class Counted(Arm):
    """Magnitude, counting how often it is asked."""

    name, timed = MAGNITUDE, True

    def __init__(self) -> None:
        self.asked = 0

    def sparsify(self, subject: Subject, ratio: float, seed: int) -> Sparse:
        self.asked += 1
        return ARMS[self.name].sparsify(subject, ratio, seed)


def test_a_run_is_resumed_and_its_graph_is_kept(subject: Subject, tmp_path: Path) -> None:
    arm = Counted()
    first = run_arm(subject, arm, 0.8, 0, tmp_path, ("plain",))
    assert (first.failure, arm.asked) == ("", 1)
    assert first.zeros["plain"] == pytest.approx(0.8, abs=0.002)
    assert (run_arm(subject, arm, 0.8, 0, tmp_path, ("plain",)), arm.asked) == (first, 1)
    tuned = run_arm(subject, arm, 0.8, 0, tmp_path, ("plain", "tuned"))
    assert arm.asked == 2
    assert tuned.hits["plain"] == first.hits["plain"]
    assert set(tuned.hits) == {"plain", "tuned"}
    assert (folder_for(tmp_path, "tiny", timing_name(MAGNITUDE, 0.8)) / "graph" / "graph.gir").exists()
    other = run_arm(subject, arm, 0.8, 1, tmp_path, ("plain",))
    assert (other.hits["plain"], arm.asked) == (first.hits["plain"], 2)


def test_kept_graphs_know_their_pattern(subject: Subject, tmp_path: Path) -> None:
    module = ARMS["ours: obs, 4x1"].sparsify(subject, 0.8, 0).finished()
    text = (keep_graph(subject.task, module, tmp_path, "blocks", 0.8) / "graph" / "graph.gir").read_text()
    assert text.count("sparse<") == 2
    assert "sparse<block 4x1" in text, "of one layer the lossless passes take out single rows, after which no blocks fit"


def test_int8_is_scored_as_it_is_deployed(subject: Subject, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    run = run_int8(subject.task, tmp_path)
    assert (run.failure, run.settings) == ("", "int8-dynamic")
    file = folder_for(tmp_path, "tiny", "int8") / "dynamo.onnx"
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(Served(file, 2)(x), subject.task.dense()(x), atol=1e-5)


# --- targets and the page --------------------------------------------------------------------------------------------


def hits(right: int, of: int = 1000) -> Hits:
    return numpy.arange(of) < right


def stored(root: Path) -> None:
    """Obs loses 0.3, 0.6 and 5 points one-shot, magnitude and torch more; recovery brings all to 0.5 but 0.9 of zeros."""
    save_run(
        root, Run(Key("crepe", DENSE, 0.0, 0), notes=("80 of 100 parameters",), parameters=100, hits={"plain": {SCORE: pack(hits(950))}})
    )
    right = {OBS: (947, 944, 900), MAGNITUDE: (940, 900, 500), TORCH: (940, 900, 500)}
    for arm, plain in right.items():
        for ratio, count in zip((0.5, 0.8, 0.9), plain, strict=True):
            tuned = 930 if ratio == 0.9 else 945
            for seed in range(2):
                packed = {"plain": {SCORE: pack(hits(count))}, "tuned": {SCORE: pack(hits(tuned + (arm == TORCH and ratio == 0.9) * 10))}}
                run = Run(Key("crepe", arm, ratio, seed), f"{arm} text", hits=packed, zeros={"plain": ratio, "tuned": ratio})
                save_run(root, run)
    save_run(root, Run(Key("crepe", INT8, 0.0, 0), "int8-static", hits={"plain": {SCORE: pack(hits(940))}}))
    save_run(root, Run(Key("crepe", "ours: wanda", 0.5, 0), failure="ValueError: no inputs"))
    times = {"ONNX Runtime": (3.0, 3.3, 3.0), "OpenVINO": (4.0, 4.0, 4.0), "ours, dense": (2.0, 2.0, 2.0), INT8: (1.5, 1.5, 1.5)}
    times |= {timing_name(OBS, 0.5): (1.5, 1.5, 1.5), timing_name(OBS, 0.8): (1.0, 1.0, 1.0), timing_name(OBS, 0.9): (0.5, 0.5, 0.5)}
    found = Latencies(2, 1, times, (0.01,) * 3, {}, {"cpu": "Test CPU"})
    write_document(
        root / "latency" / "crepe.json",
        {"threads": found.threads, "batch": 1, "times": times, "others": [0.01] * 3, "failures": {}, "machine": {"cpu": "Test CPU"}},
    )
    assert load_latencies(root, "crepe") == found


def test_targets_are_decided_by_the_records(tmp_path: Path) -> None:
    stored(tmp_path)
    shown = board(tmp_path, TASKS["crepe"])
    assert shown is not None
    trained_here, recovered, one_shot, beats, nowhere, fast = (
        [(f.case, f.verdict) for f in target.findings([shown])] for target in TARGETS
    )
    assert trained_here == []
    assert recovered == [("0.8, after recovery", "met")]
    assert one_shot == [("0.5, one-shot", "met")]
    assert [(case.split(",")[0], word) for case, word in beats] == [("0.5", "met"), ("0.8", "met"), ("0.9", "met")]
    assert [case for case, word in nowhere if word == "missed"] == ["0.9, after recovery, ours: obs - torch prune, local"]
    assert len(nowhere) == 6
    assert fast == [("ours: obs, 0.8, one-shot", "met")]
    assert TARGETS[-1].findings([shown])[0].figures == "3.00x (3.00–3.15) of ONNX Runtime; ours, dense: 1.50x"
    assert [f.verdict for f in TARGETS[-1].findings([replace(shown, latencies=None)])] == []
    slow = Latencies(2, 1, {"ONNX Runtime": (1.0,), timing_name(OBS, 0.8): (0.5,)})
    assert [f.verdict for f in TARGETS[-1].findings([replace(shown, latencies=slow)])] == ["missed"]


def test_verdicts_need_the_whole_interval() -> None:
    assert verdict(Difference(1.0, 0.2, 1.8, 0.01)) == "met"
    assert verdict(Difference(1.0, -0.2, 2.2, 0.1)) == "no difference"
    assert verdict(Difference(0.0, 0.0, 0.0, 1.0)) == "no difference"
    assert verdict(Difference(-1.0, -1.8, -0.2, 0.01)) == "missed"


def test_page(tmp_path: Path) -> None:
    stored(tmp_path)
    file = tmp_path / "page.md"
    assert main(["--root", str(tmp_path), "--page-only", "--page", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert "Dense: within 50 cents 95.00 %. 80 of 100 parameters." in text
    assert "Run here: one-shot: 2 seeds, after recovery: 2 seeds; recovery of 100 steps." in text
    assert "| ours: obs | 0.8 | 0.800 | 0.60 ±0.00 [" in text
    assert "| NNCF, local | not run | - | - | - |" in text
    assert "| ours: obs, 0.8 | 1.000 (1.000–1.000) | 3.00 (3.00–3.15) | 0.60 ±0.00 [" in text
    assert "| ONNX Runtime int8 | 1.500 (1.500–1.500) | 2.00 (2.00–2.10) | 1.00 [" in text
    assert "| crepe | 0.9, after recovery, ours: obs - torch prune, local | -1.00 [" in text
    assert "- ours: wanda, 0.5: ValueError: no inputs" in text
    assert "cpu Test CPU" in text
    assert (tmp_path / "page-crepe.svg").is_file()


def test_page_of_nothing_says_so(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    assert main(["--root", str(tmp_path), "--page-only", "--page", str(file)]) == 0
    assert file.read_text(encoding="utf-8").count("not measured") == len(TARGETS)


# --- latency and the command -----------------------------------------------------------------------------------------


def test_quick_runs_one_ratio_and_times_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(TASKS, "tiny", DeepTask)
    arguments = ["--root", str(tmp_path), "--assets", str(tmp_path), "--tasks", "tiny", "--quick", "--arms", "obs, 4x1,torch prune, local"]
    assert main([*arguments, "--timing-threads", "1"]) == 0
    keys = {(run.key.arm, run.key.level, run.key.seed) for run in load_runs(tmp_path, "tiny")}
    assert keys >= {(DENSE, 0.0, 0), ("ours: obs, 4x1", 0.8, 0), (TORCH, 0.8, 0), (INT8, 0.0, 0)}
    found = load_latencies(tmp_path, "tiny")
    assert found is not None
    assert set(found.times) | set(found.failures) >= {"ours, dense", "ONNX Runtime", INT8, timing_name("ours: obs, 4x1", 0.8)}
    assert {"ours, dense", timing_name("ours: obs, 4x1", 0.8)} <= set(found.times)
    assert all(len(times) == 3 for times in found.times.values())
    who = [each for each in contenders(tmp_path, "tiny", []) if each.name in found.times]
    assert measure(tmp_path, "tiny", 2, 1, who, 3, 0.0, print) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "imagenet"], "'imagenet' is no task: use resnet, mobilenet, lite0, minilm, crepe"),
        (["--stages", "trained"], "'trained' is no stage: use plain, tuned"),
        (["--ratios", "0.7"], "'0.7' is no ratio: use 0.3, 0.45, 0.5, 0.6, 0.8, 0.9"),
        (["--arms", "nobody"], "no method's name contains 'nobody'"),
        (["--no-timing", "--timing-only"], "leave nothing to do"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_methods_that_are_not_installed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.bench_quality import packages

    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr(packages, "find_spec", nothing)
    monkeypatch.setitem(TASKS, "tiny", DeepTask)
    arguments = ["--root", str(tmp_path), "--assets", str(tmp_path), "--tasks", "tiny", "--quick", "--arms", "NNCF", "--no-timing"]
    assert main(arguments) == 0
    assert "tiny, NNCF, local: left out, the package nncf is not installed: pip install --no-deps nncf==3.4.0" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not [run for run in load_runs(tmp_path, "tiny") if run.key.arm.startswith("NNCF")]


def test_the_dense_network_is_scored_once(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_dense(subject, tmp_path)
    assert first.notes == ("2,048 of 2,435 parameters are weights of the 2 layers that become sparse",)
    monkeypatch.delattr(Task, "quality")
    assert run_dense(subject, tmp_path) == first
