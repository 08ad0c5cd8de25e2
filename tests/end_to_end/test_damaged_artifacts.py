"""Saved folders that are cut, changed or incomplete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import graphopt
from graphopt.errors import (
    ArtifactError,
)
from graphopt.ir.graph import Graph
from tests.support.small_models import X, linear


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
