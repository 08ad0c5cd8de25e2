"""Saving and loading: bits, hashes, damage."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphopt.errors import ArtifactError
from graphopt.ir.artifact import FORMAT_VERSION
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, GraphEditor, Source
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.store import load_graph, save_graph
from graphopt.ir.types import DType, TensorType
from graphopt.rewrite.derived import DerivedData
from tests.support.artifacts import HOSTILE, outcome, reseal, small_artifact
from tests.support.random_graphs import HOSTILE_NAMES, random_graph

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "small.gir"
    small_artifact(path)
    return path


@pytest.fixture
def artifact(sound: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.gir"
    shutil.copytree(sound, path)
    return path


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def numbers(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.tensor()


def _triple(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 3


def every_dtype() -> Graph:
    builder = Builder(Graph("dtypes"))
    generator = torch.Generator().manual_seed(0)
    for dtype in DType:
        kind = getattr(torch, dtype.torch_name)
        for shape in ((), (0, 3), (3, 2), (5,)):
            raw = torch.randint(0, 2 if dtype is DType.boolean else 256, (*shape, dtype.bytes), dtype=torch.uint8, generator=generator)
            tensor = raw.view(kind).reshape(shape) if raw.numel() else torch.empty(shape, dtype=kind)
            builder.state(f"{dtype.text}.{len(shape)}.{sum(shape)}", TensorType(dtype, shape), tensor)
    for name in HOSTILE_NAMES:
        builder.state(name, TensorType(DType.f32, (2,)), torch.randn(2, generator=generator), kind="buffer")
    return builder.outputs()


def test_every_dtype_comes_back_bit_by_bit(tmp_path: Path) -> None:
    graph = every_dtype()
    save_graph(graph, tmp_path / "g.gir")
    again = load_graph(tmp_path / "g.gir")
    assert again == graph
    assert list(again.states) == list(graph.states)
    for name in graph.states:
        before, after = numbers(graph, name), numbers(again, name)
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert bits(before) == bits(after), name


def test_random_graphs_come_back(tmp_path: Path) -> None:
    for seed in range(12):
        graph = random_graph(seed, with_data=True, symbolic=seed % 2 == 0, hostile=True, opaque=True, regions=True, sparsity=True)
        save_graph(graph, tmp_path / "g.gir")
        again = load_graph(tmp_path / "g.gir")
        assert show(again, sources=True) == show(graph, sources=True)
        assert all(bits(numbers(graph, name)) == bits(numbers(again, name)) for name in graph.states)


def test_states_of_regions_come_back(tmp_path: Path) -> None:
    inner = Builder(Graph("then"))
    inner.state("w", TensorType(DType.f32, (2,)), torch.tensor([1.0, 2.0]))
    builder = Builder(Graph("outer"))
    builder.state("w", TensorType(DType.f32, (2,)), torch.tensor([3.0, 4.0]))
    builder.insert("cond", (), {}, types=(), regions=(inner.outputs(),))
    save_graph(builder.outputs(), tmp_path / "g.gir")
    graph = load_graph(tmp_path / "g.gir")
    region = next(iter(graph.nodes)).regions[0]
    assert numbers(graph, "w").tolist() == [3.0, 4.0]
    assert numbers(region, "w").tolist() == [1.0, 2.0]


def test_tied_weights_are_stored_once_and_views_are_made_contiguous(tmp_path: Path) -> None:
    builder = Builder(Graph("tied"))
    base = torch.arange(12.0)
    builder.state("embed.weight", TensorType(DType.f32, (4, 3)), base.view(3, 4).t(), tied=("head.weight",))
    builder.state("row", TensorType(DType.f32, (3, 2)), torch.tensor([1.0, 2.0]).expand(3, 2))
    save_graph(builder.outputs(), tmp_path / "g.gir")
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "g.gir" / "weights.safetensors")
    assert sorted(stored) == ["embed.weight", "row"]
    graph = load_graph(tmp_path / "g.gir")
    assert graph.states["embed.weight"].tied == ("head.weight",)
    assert torch.equal(numbers(graph, "embed.weight"), base.view(3, 4).t())


def test_derived_numbers_are_saved_as_they_round(tmp_path: Path) -> None:
    builder = Builder(Graph("derived"))
    source = TensorType(DType.f32, (3,))
    builder.state("w", source, torch.tensor([0.1, 0.2, 0.3]))
    data = builder.graph.states["w"].data
    assert data is not None
    builder.state("folded", source, DerivedData(_triple, [data], DType.f32, exact=False))
    save_graph(builder.outputs(), tmp_path / "g.gir")
    again = numbers(load_graph(tmp_path / "g.gir"), "folded")
    assert torch.equal(again, (torch.tensor([0.1, 0.2, 0.3]).double() * 3).float())


def test_same_graph_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_graph(every_dtype(), tmp_path / name)
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_over_what_is_being_read(artifact: Path) -> None:
    graph = load_graph(artifact)
    GraphEditor(graph).rename(graph.value("z"), "renamed")
    save_graph(graph, artifact)
    again = load_graph(artifact)
    assert again.has_value("renamed")
    assert again.value("renamed").producer.source == Source("act", "model.py", 7)  # pyright: ignore[reportOptionalMemberAccess]
    assert torch.equal(numbers(graph, "w"), numbers(again, "w"))
    assert os.listdir(artifact.parent) == ["small.gir"]


def test_saving_leaves_foreign_things_alone(artifact: Path, tmp_path: Path) -> None:
    graph = load_graph(artifact)
    full = tmp_path / "photos"
    full.mkdir()
    (full / "cat.jpg").write_text("meow")
    with pytest.raises(ArtifactError, match=r"refusing to replace a folder that is no graphopt artifact: it holds cat\.jpg"):
        save_graph(graph, full)
    (artifact / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"it holds notes\.txt"):
        save_graph(graph, artifact)
    assert (artifact / "notes.txt").read_text() == "mine"
    with pytest.raises(ArtifactError, match="a file or link stands where"):
        save_graph(graph, full / "cat.jpg")
    link = tmp_path / "link"
    link.symlink_to(full)
    with pytest.raises(ArtifactError, match="a file or link stands where"):
        save_graph(graph, link)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(ArtifactError, match="'format' is not 'graphopt'"):
        save_graph(graph, tmp_path / "fake")
    with pytest.raises(ArtifactError, match="is no path: embedded null byte"):
        save_graph(graph, tmp_path / "nul\0")
    with pytest.raises(ArtifactError, match="there is no artifact here: embedded null byte"):
        load_graph(tmp_path / "nul\0")
    (tmp_path / "empty").mkdir()
    save_graph(graph, tmp_path / "empty")
    assert load_graph(tmp_path / "empty") == graph


def test_saving_that_fails_leaves_the_old_one(artifact: Path) -> None:
    graph = load_graph(artifact)
    text_only = parse("graph g() { param %v: f32[2] return }")
    with pytest.raises(ArtifactError, match=r"%v has no numbers\n  fix: a graph that was parsed from text"):
        save_graph(text_only, artifact)
    builder = Builder(Graph("wrong"))
    builder.state("v", TensorType(DType.f32, (2,)), torch.zeros(3))
    with pytest.raises(ArtifactError, match=r"%v is declared f32\[2\] and its numbers are torch.float32 \[3\]"):
        save_graph(builder.outputs(), artifact)
    assert load_graph(artifact) == graph
    assert os.listdir(artifact.parent) == ["small.gir"]


def test_loading_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact here"):
        load_graph(tmp_path / "missing")
    with pytest.raises(ArtifactError, match=r"manifest\.json: can't be opened"):
        load_graph(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="an artifact is a folder, this is a file"):
        load_graph(tmp_path / "file")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_artifacts_are_refused(name: str, artifact: Path) -> None:
    damage, message = HOSTILE[name]
    damage(artifact)
    with pytest.raises(ArtifactError, match=message):
        load_graph(artifact)


def test_numbers_are_compared_when_they_are_read(artifact: Path) -> None:
    file = artifact / "weights.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    reseal(artifact)
    graph = load_graph(artifact)
    with pytest.raises(ArtifactError, match=r"'mask' (has the SHA-256|holds a bool)"):
        numbers(graph, "mask")
    assert numbers(graph, "w").shape == (2, 2)


def test_a_folder_that_goes_away_before_its_numbers_are_read(artifact: Path) -> None:
    graph = load_graph(artifact)
    shutil.rmtree(artifact)
    with pytest.raises(ArtifactError, match="can't be read any more"):
        numbers(graph, "w")


def test_truncation_at_every_byte_and_bit_flips(artifact: Path) -> None:
    rng = random.Random(0)
    for name in ("manifest.json", "graph.gir", "weights.safetensors"):
        file = artifact / name
        whole = file.read_bytes()
        for length in range(len(whole)):
            if name == "manifest.json" and not whole[length:].strip():
                continue  # only the last line break is gone
            file.write_bytes(whole[:length])
            assert outcome(artifact) != "loaded", (name, length)
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            file.write_bytes(bytes(damaged))
            if name != "manifest.json":  # a flipped bit in the version of the writer does no harm
                assert outcome(artifact) != "loaded"
            else:
                outcome(artifact)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["graph.gir", "weights.safetensors"])
def test_damage_under_a_fitting_manifest(name: str, artifact: Path) -> None:
    """The hashes fit, so the parser and the header check stand alone."""
    rng = random.Random(1)
    file = artifact / name
    whole = file.read_bytes()
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        reseal(artifact)
        outcome(artifact)
    refused = 0
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(min(len(whole), 600))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(damaged))
        reseal(artifact)
        refused += outcome(artifact) != "loaded"
    assert refused > 150


def test_loading_needs_no_torch_until_numbers_are_read(sound: Path) -> None:
    code = f"""
import sys
from graphopt.ir.store import load_graph
graph = load_graph({str(sound)!r})
assert "torch" not in sys.modules
assert graph.states["w"].data.tensor().shape == (2, 2)
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_saving_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    code = f"""
import resource, torch
from graphopt.ir.artifact import FORMAT_VERSION
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph
from graphopt.ir.store import load_graph, save_graph
from graphopt.ir.types import DType, TensorType
torch.set_num_threads(1)

class Fresh:
    "Makes its numbers anew each time, so that only the writer could hold on to them."
    def tensor(self): return torch.ones(1 << 22)
    def precise(self): return self.tensor().double()

builder = Builder(Graph("large"))
for index in range(24):
    builder.state(f"w{{index}}", TensorType(DType.f32, (1 << 22,)), Fresh())
builder.outputs()
save_graph(Builder(Graph("warm")).outputs(), {str(tmp_path / "warm")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_graph(builder.graph, {str(tmp_path / "large")!r})
graph = load_graph({str(tmp_path / "large")!r})
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert grown < 64, f"384 MiB of weights took {{grown}} MiB"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    shutil.rmtree(tmp_path / "large")


def test_folders_of_every_format_version_are_read() -> None:
    """`golden/formatN.gir` was written when N was new; it is never written again."""
    for version in range(1, FORMAT_VERSION + 1):
        graph = load_graph(Path(__file__).parent / "golden" / f"format{version}.gir")
        assert [node.op for node in graph.nodes] == ["linear", "relu"]
        assert numbers(graph, "w").dtype == torch.float32
        assert numbers(graph, "half").dtype == torch.float16
        assert numbers(graph, "steps").shape == ()
        assert numbers(graph, "mask").dtype == torch.bool


def test_public_load_verifies_types(artifact: Path) -> None:
    import graphopt

    assert graphopt.load(artifact) == load_graph(artifact)
    file = artifact / "graph.gir"
    file.write_text(file.read_text().replace("%z: f32[1,2]", "%z: f32[1,3]"))
    reseal(artifact)
    with pytest.raises(ArtifactError, match=r"the saved graph is wrong: .*f32\[1,3\]"):
        graphopt.load(artifact)
