"""Coverage of shrinking: halving, silencing units, the record of a model, tables and resumption."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.axes import Role, axis_groups
from graphopt.backends.reference.interpreter import Interpreter
from tools import zoo
from tools.coverage_shrink import command, ours, page, peer, recipe

OURS: list[dict[str, Any]] = [
    {
        "name": "timm:good",
        **dict.fromkeys(ours.STEPS, "ok"),
        "nodes": 100,
        "group count": 7,
        "analysis seconds": 0.02,
        "renormalised": 2,
        "parameters": 1000,
        "parameters after": 300,
        "fixed": {"it is an axis of the output %…": 2},
        "dead error": 3e-16,
        "dead by": "written",
        "seconds": 3.0,
    },
    {
        "name": "torchvision:swin3d_t",
        "capture": "ok",
        "groups": "ok",
        "poison": "ok",
        "cut": "failed",
        "failed": "cut",
        "reason": "PassError: a | b",
        "nodes": 10,
        "analysis seconds": 0.01,
        "group count": 1,
        "renormalised": 0,
    },
]
PEERS: list[dict[str, Any]] = [
    {"name": "timm:good", "naive": "pruning: IndexError: x", "recipe": "ok", "ratio": 0.25, "seconds": 1.0},
    {"name": "torchvision:swin3d_t", "naive": "building the dependency graph: more than 60 s"},
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(torch.relu(self.norm(self.one(x)))).mean((2, 3)))


def test_halves_are_random_and_never_all() -> None:
    groups = axis_groups(graphopt.capture(Net().eval(), (torch.randn(1, 3, 8, 8),)))
    gone = {group.name: mask for group, mask in ours.halves(groups).items()}
    assert {name: int(mask.sum()) for name, mask in gone.items()} == {"one": 4, "two": 2}
    again = {group.name: mask for group, mask in ours.halves(groups).items()}
    assert all(numpy.array_equal(gone[name], again[name]) for name in gone)


def test_silenced_units_write_zeros() -> None:
    graph = graphopt.capture(Net().eval(), (torch.randn(1, 3, 8, 8),))
    groups = axis_groups(graph)
    removal = {group: mask for group, mask in ours.halves(groups).items() if group.name == "one"}
    ours.silence(graph, removal, (Role.WRITTEN, Role.SCALED))
    seen: dict[str, torch.Tensor] = {}
    Interpreter(graph).run(torch.randn(1, 3, 8, 8), on_value=lambda value, tensor: seen.__setitem__(value.name, tensor))
    (mask,) = removal.values()
    channels = torch.from_numpy(mask)
    silent = [name for name, tensor in seen.items() if tensor.ndim == 4 and tensor.shape[1] == 8 and not bool(tensor[:, channels].any())]
    assert len(silent) == 3
    assert all(bool(seen[name][:, ~channels].any()) for name in silent)


def use(monkeypatch: pytest.MonkeyPatch, module: nn.Module, x: torch.Tensor) -> None:
    def build(name: str) -> zoo.ZooModel:
        return zoo.ZooModel(name, module, (x,), {})

    monkeypatch.setattr(zoo, "build", build)


def test_a_model_passes_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Net().eval(), torch.randn(1, 3, 8, 8))
    record = ours.examine("timm:net")
    assert "failed" not in record, record.get("traceback")
    assert all(record[step] == "ok" for step in ours.STEPS)
    assert record["parameters after"] < record["parameters"]
    assert record["dead by"] == "written"
    assert record["dead error"] < 1e-12
    json.dumps(record)


def test_a_failure_names_step_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, nn.Linear(3, 2).eval(), torch.randn(1, 3))
    record = ours.examine("timm:linear")
    assert record["failed"] == "groups"
    assert record["reason"].startswith("SizeError: no group can be cut by half")


def test_reasons_are_counted_without_names() -> None:
    assert ours.general("conv2d %layer1.0.conv1 takes it as the window") == "convNd %… takes it as the window"


def spin() -> None:
    while True:
        pass


def test_time_limit_is_of_cpu_time() -> None:
    with pytest.raises(peer.OverTime), peer.within(0.05):
        spin()
    with peer.within(0.05):
        time.sleep(0.1)


def test_layers_that_make_the_output_are_found() -> None:
    net = Net().eval()
    assert recipe.kept_whole(net, (torch.randn(1, 3, 8, 8),), {}) == [net.head]


def test_families() -> None:
    names = ("torchvision:deeplabv3_resnet50", "torchvision:mvit_v1_b", "torchvision:raft_small", "torchvision:vgg11", "timm:levit_128s")
    found = [page.family_of(name).removeprefix("torchvision ") for name in names]
    assert found == ["segmentation", "video", "optical flow", "classification", "timm"]
    assert set(map(page.family_of, command.models())) == set(page.FAMILIES)
    assert not any("rcnn" in name or "ssd" in name for name in command.models("torchvision"))


def test_table_counts_both() -> None:
    lines = page.summary(OURS, PEERS)
    assert lines[2].startswith("| torchvision video | 1 | 1 | 1 | 1 | 0 | 0 | 0 | 0 | **0 (0.0 %)** | 0 (0.0 %) | 0 (0.0 %) |")
    assert lines[3] == "| timm | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | **1 (100.0 %)** | 0 (0.0 %) | 1 (100.0 %) |"
    assert lines[4].startswith("| all | 2 |")


def test_page_has_failures_and_reasons() -> None:
    text = page.document(OURS, PEERS, "python -m tools.coverage --shrink")
    assert "| torchvision:swin3d_t | cut | PassError: a / b |" in text
    assert "| torchvision:swin3d_t | building the dependency graph: more than 60 s | - |" in text
    assert "| it is an axis of the output %… | 2 | 1 |" in text
    assert "| timm:good | 100 | 7 | 0.02 | 0.300 | 3e-16 | ok | recipe | 0.250 |" in text
    assert "- 2 of 8 groups have a node that averages" in text


def test_records_are_kept_and_the_last_counts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "ours.jsonl"
    assert command.load(file) == {}
    for reason in ("a", "b"):
        command.store(file, {"name": "timm:x", "failed": "cut", "reason": reason})
    assert command.load(file) == {"timm:x": {"name": "timm:x", "failed": "cut", "reason": "b"}}


def test_page_only_examines_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in OURS:
        command.store(tmp_path / "ours.jsonl", record | {"name": record["name"].replace("good", "levit_128s")})
    output = tmp_path / "page.md"
    arguments = ["--records", str(tmp_path), "--page-only", "--output", str(output)]
    assert command.main(arguments) == 1
    assert "| timm | 1 |" in capsys.readouterr().out
    assert "# Shrink on the model zoo" in output.read_text(encoding="utf-8")
