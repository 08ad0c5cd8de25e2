"""Saved executables: the way back, without torch, and folders made by an enemy."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from graphopt.backends.onnxruntime import OnnxRuntimeBackend, load
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.capture import capture
from graphopt.errors import ArtifactError, BackendError

pytestmark = pytest.mark.onnxruntime


class Tied(nn.Module):
    """An embedding whose weight is the last layer's too, a layer whose weight is stored transposed, an unused buffer."""

    def __init__(self, *, histogram: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 24)
        self.inner = nn.Linear(24, 24)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("unused", torch.arange(3))
        self.histogram = histogram

    def forward(self, ids: torch.Tensor) -> Any:
        y = self.head(torch.relu(self.inner(self.embedding(ids))))
        return (torch.relu(y) + torch.histc(y, 8).sum(), y) if self.histogram else y


IDS = torch.arange(14).reshape(2, 7)


def lowered(*, histogram: bool = False, **options: Any) -> OnnxRuntimeExecutable:
    return OnnxRuntimeBackend().lower(capture(Tied(histogram=histogram).eval(), (IDS,)), **options)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tied"
    lowered(threads=1).save(path)
    return path


def copy_of(sound: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in sound.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def rehash(folder: Path) -> None:
    """Make the manifest fit, as somebody who means harm would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("histogram", [False, True])
def test_saved_executable_gives_the_same_bits(tmp_path: Path, histogram: bool) -> None:
    executable = lowered(histogram=histogram, threads=1)
    executable.save(tmp_path / "a")
    again = load(tmp_path / "a")
    found, wanted = again(IDS), executable(IDS)
    for one, other in zip(*(t if isinstance(t, tuple) else (t,) for t in (found, wanted)), strict=True):
        assert torch.equal(one, other)
    assert again.report == executable.report
    assert again.options == executable.options


def test_states_come_back_and_are_stored_once(sound: Path) -> None:
    graph = load(sound).graph
    states = Tied().state_dict()
    assert list(graph.states) == ["unused", "embedding.weight", "inner.weight", "inner.bias"]
    for name, state in graph.states.items():
        assert state.data is not None
        assert torch.equal(state.data.tensor(), states[name])
    numbers = 4 * (50 * 24 + 24 * 24 + 24) + 8 * 3
    assert (sound / "weights.bin").stat().st_size < numbers + 4 * 64


def test_loaded_executable_can_be_saved_again(sound: Path, tmp_path: Path) -> None:
    load(sound).save(tmp_path / "again")
    for file in sound.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_saving_replaces_an_executable_of_more_segments(tmp_path: Path) -> None:
    lowered(histogram=True).save(tmp_path / "a")
    lowered().save(tmp_path / "a")
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == [
        "executable.json",
        "graph.gir",
        "manifest.json",
        "segment0.onnx",
        "weights.bin",
    ]


def test_loading_and_running_needs_no_torch(sound: Path) -> None:
    code = f"""
import sys
import numpy as np
import graphopt
executable = graphopt.load({str(sound)!r})
found = executable(np.arange(14).reshape(2, 7))
assert isinstance(found, np.ndarray) and found.shape == (2, 7, 50), found
assert executable.graph.states["inner.weight"].type.text == "f32[24,24]"
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_document_tells_how_it_was_made(sound: Path) -> None:
    document = json.loads((sound / "executable.json").read_text())
    assert document["options"]["providers"] == ["CPUExecutionProvider"]
    assert document["options"]["threads"] == 1
    assert document["versions"]["onnxruntime"]
    assert document["opset"] == 23


def test_model_opens_in_other_tools(sound: Path) -> None:
    onnx.checker.check_model(str(sound / "segment0.onnx"), full_check=True)


def test_options_can_be_replaced(sound: Path) -> None:
    assert load(sound, threads=2).options.threads == 2
    with pytest.raises(BackendError, match=r"'NoSuchProvider' is not available\n  fix: available: .*CPUExecutionProvider"):
        load(sound, providers=["NoSuchProvider"])


# Damage


@pytest.mark.parametrize("name", ["graph.gir", "executable.json", "segment0.onnx", "weights.bin", "manifest.json"])
def test_cut_off_file_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    content = (folder / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        (folder / name).write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            load(folder)


@pytest.mark.parametrize("name", ["graph.gir", "executable.json", "segment0.onnx", "weights.bin"])
def test_flipped_bit_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 3] ^= 4
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: SHA-256 is"):
        load(folder)


@pytest.mark.parametrize("name", ["graph.gir", "segment0.onnx", "weights.bin"])
def test_missing_or_linked_file_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError):
        load(folder)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        load(folder)


def change_model(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load_model_from_string((folder / "segment0.onnx").read_bytes())
    change(model)
    (folder / "segment0.onnx").write_bytes(model.SerializeToString())
    rehash(folder)


def external(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def point_at(entry: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for item in external(model).external_data:
            if item.key == entry:
                item.value = value

    return change


HOSTILE_MODELS: list[tuple[Callable[[onnx.ModelProto], object], str]] = [
    (point_at("location", "../secret"), r"refers to .*'\.\./secret'.*, allowed is weights\.bin alone"),
    (point_at("location", "/etc/passwd"), "allowed is weights.bin alone"),
    (point_at("offset", "1000000"), "takes the bytes 1000000 to"),
    (point_at("offset", "-64"), "is no proper external tensor|has the length"),
    (point_at("length", "1"), "has the length 1"),
    (point_at("offset", "x"), "is no proper external tensor"),
    (lambda model: model.graph.node.add(op_type="Evil", domain="evil", output=["z"]), "the op Evil of the domain 'evil'"),
    (lambda model: model.opset_import.add(domain="evil", version=1), "ops of other domains"),
    (lambda model: model.functions.add(name="f"), "holds functions"),
    (lambda model: model.graph.output[0].ClearField("name"), "refuses the model|not those of"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_MODELS)
def test_hostile_model_is_refused(sound: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], object], message: str) -> None:
    folder = copy_of(sound, tmp_path)
    change_model(folder, change)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


HOSTILE_DOCUMENTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.update(version=2), "version is 2, this graphopt reads up to 1"),
    (lambda d: d.update(format="x"), "not an executable"),
    (lambda d: d.pop("steps"), "'options', 'states' or 'steps' is missing"),
    (lambda d: d["states"].pop("unused"), r"its states are not those of the graph: \['unused'\]"),
    (lambda d: d["states"].update(unused=[1 << 40, None]), "the file has"),
    (lambda d: d["states"].update(unused=[0, [3]]), "can't have the permutation"),
    (lambda d: d["steps"][0].update(file="../segment0.onnx"), "can't be opened|changed while"),
    (lambda d: d["steps"][0].update(inputs=[["nobody", "ids"]]), "has no value %nobody"),
    (lambda d: d["steps"][0].update(outputs=[]), "inputs and outputs are not those of"),
    (lambda d: d["steps"].append({"kind": "foreign", "nodes": [[999, "because"]]}), "there is no node 999"),
    (lambda d: d["steps"].append({"kind": "other"}), "a step is"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_DOCUMENTS)
def test_hostile_document_is_refused(sound: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    folder = copy_of(sound, tmp_path)
    document = json.loads((folder / "executable.json").read_text())
    change(document)
    (folder / "executable.json").write_text(json.dumps(document))
    rehash(folder)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


def test_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="no graphopt artifact"):
        lowered().save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
