"""Annotated sparse tensors in saved folders: bits, sizes, damage, versions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphopt.errors import ArtifactError
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.sparse_storage import choose_encoding, decode, encode
from graphopt.ir.store import load_graph, save_graph
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType
from tests.support.artifacts import reseal, rewrite_header

VALUES = '"sparse:values:r":{"dtype":"F32","shape":'
DTYPES = (DType.f64, DType.f32, DType.f16, DType.bf16, DType.f8e4m3)


def sparse_type(dtype: DType, *shape: int) -> TensorType:
    return TensorType(dtype, shape, Sparsity(SparsityPattern.UNSTRUCTURED, 0.5))


def numbers(shape: tuple[int, ...], density: float, dtype: DType = DType.f32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < density, dense, 0.0).to(getattr(torch, dtype.torch_name))


def graph_of(**tensors: torch.Tensor) -> Graph:
    builder = Builder(Graph("sparse"))
    for name, tensor in tensors.items():
        dtype = DType.parse(str(tensor.dtype).removeprefix("torch."))
        builder.state(name, sparse_type(dtype, *tensor.shape), tensor)
    builder.state("bias", TensorType(DType.f32, (3,)), torch.ones(3))
    return builder.outputs()


def loaded(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.tensor()


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def keys(folder: Path) -> set[str]:
    raw = (folder / "weights.safetensors").read_bytes()
    return set(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])) - {"__metadata__"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.2, 0.5])
def test_every_bit_comes_back(dtype: DType, density: float) -> None:
    tensor = numbers((24, 9, 3, 3), density, dtype)
    if dtype is not DType.f8e4m3:
        tensor[1, 0, 0] = torch.tensor([-0.0, float("nan"), float("inf")]).to(tensor.dtype)
    encoding = choose_encoding(sparse_type(dtype, 24, 9, 3, 3), tensor)
    assert encoding is not None
    parts = {
        word: torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(0)
        for word, raw in encode(encoding, tensor).items()
    }
    typed = {
        part.key.split(":")[1]: parts[part.key.split(":")[1]].view(getattr(torch, part.dtype.torch_name)).reshape(part.shape)
        if part.bytes
        else torch.zeros(part.shape, dtype=getattr(torch, part.dtype.torch_name))
        for part in encoding.parts("w")
    }
    assert bits(decode("w", encoding, typed)) == bits(tensor)
    assert encoding.bytes == sum(map(len, encode(encoding, tensor).values())) < tensor.numel() * tensor.element_size()


def test_the_smaller_form_is_taken() -> None:
    kinds: dict[float, str] = {}
    for density in (0.005, 0.2, 1.0):
        found = choose_encoding(sparse_type(DType.f32, 64, 576), numbers((64, 576), density))
        kinds[density] = found.kind if found is not None else "dense"
    assert kinds == {0.005: "csr", 0.2: "bitmask", 1.0: "dense"}
    plain = replace(sparse_type(DType.f32, 64, 576), sparsity=None)
    assert choose_encoding(plain, numbers((64, 576), 0.2)) is None


def test_saved_folders_are_small_and_load_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"mask": numbers((64, 64, 3, 3), 0.2), "rows": numbers((64, 1152), 0.01), "half": numbers((64, 64), 0.3, DType.f16)}
    save_graph(graph_of(**tensors), tmp_path / "g")
    stored = (tmp_path / "g" / "weights.safetensors").stat().st_size
    assert stored < 0.35 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert keys(tmp_path / "g") == {
        "bias", "sparse:values:mask", "sparse:mask:mask", "sparse:values:rows", "sparse:rows:rows", "sparse:columns:rows",
        "sparse:values:half", "sparse:mask:half",
    }  # fmt: skip
    graph = load_graph(tmp_path / "g")
    assert all(bits(loaded(graph, name)) == bits(tensor) for name, tensor in tensors.items())
    save_graph(graph, tmp_path / "again")
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (tmp_path / "g" / "weights.safetensors").read_bytes()
    assert (tmp_path / "g" / "graph.gir").read_text().startswith("graphopt-ir 2\n")


def test_dense_folders_are_as_before(tmp_path: Path) -> None:
    graph = graph_of(w=numbers((8, 8), 1.0))
    GraphEditor(graph)
    save_graph(graph, tmp_path / "g")
    assert keys(tmp_path / "g") == {"bias", "w"}
    assert (tmp_path / "g" / "graph.gir").read_text().startswith("graphopt-ir 1\n")
    assert bits(loaded(load_graph(tmp_path / "g"), "w")) == bits(loaded(graph, "w"))


def test_names_that_look_like_parts(tmp_path: Path) -> None:
    tensors = {"w": numbers((16, 16), 0.2), "sparse:mask:w": numbers((16, 16), 0.2, seed=1), "sparse:x": numbers((2, 2), 1.0)}
    save_graph(graph_of(**tensors), tmp_path / "g")
    graph = load_graph(tmp_path / "g")
    assert all(bits(loaded(graph, name)) == bits(tensor) for name, tensor in tensors.items())
    alone = graph_of(**{"sparse:values:w": numbers((2, 2), 1.0)})
    save_graph(alone, tmp_path / "alone")
    assert keys(tmp_path / "alone") == {"bias", "sparse:values:w"}
    assert bits(loaded(load_graph(tmp_path / "alone"), "sparse:values:w")) == bits(loaded(alone, "sparse:values:w"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse") / "g"
    mask = torch.zeros(4, 6)
    mask[:, 1] = torch.arange(1.0, 5.0)
    rows = torch.zeros(4, 512)
    rows[:, 300] = torch.arange(1.0, 5.0)
    save_graph(graph_of(m=mask, r=rows), folder)
    assert {"sparse:mask:m", "sparse:rows:r"} <= keys(folder)
    return folder


def _data(folder: Path, key: str, content: bytes) -> None:
    """Write other bytes in the place of a tensor, and seal."""
    raw = bytearray((folder / "weights.safetensors").read_bytes())
    length = int.from_bytes(raw[:8], "little")
    start, stop = json.loads(raw[8 : 8 + length])[key]["data_offsets"]
    assert stop - start == len(content)
    raw[8 + length + start : 8 + length + stop] = content
    (folder / "weights.safetensors").write_bytes(raw)
    reseal(folder)


def _ints(*values: int, width: int = 4) -> bytes:
    return b"".join(value.to_bytes(width, "little", signed=True) for value in values)


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("sparse:mask:m", bytes([0b10000010, 0b00100000, 0]), "'m' has 4 values and a mask for 3"),
        ("sparse:mask:m", bytes([0b11, 0b11, 0b0]), "'m' has the SHA-256"),
        ("sparse:rows:r", _ints(0, 1, 2, 3, 5), "'r' has rows that do not go from 0 to its 4 values in order"),
        ("sparse:rows:r", _ints(0, 3, 2, 3, 4), "'r' has rows that do not go from 0 to its 4 values in order"),
        ("sparse:rows:r", _ints(0, 2, 2, 3, 4), "'r' has columns that are not in order within a row"),
        ("sparse:columns:r", _ints(300, 300, 300, 512, width=2), "'r' has columns from 300 to 512, needs 0 to 511"),
        ("sparse:values:r", b"\0" * 16, "'r' has the SHA-256"),
    ],
)
def test_hostile_numbers_are_refused_when_they_are_read(sound: Path, tmp_path: Path, key: str, content: bytes, message: str) -> None:
    shutil.copytree(sound, tmp_path / "g")
    _data(tmp_path / "g", key, content)
    graph = load_graph(tmp_path / "g")
    with pytest.raises(ArtifactError) as raised:
        loaded(graph, key.rpartition(":")[2])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"sparse:mask:m"', '"sparse:mask:q"', "its tensors are not the states of the graph: missing"),
        ('"sparse:values:m"', '"sparse:velues:m"', "its tensors are not the states of the graph: missing"),
        ('"dtype":"U8","shape":[3]', '"dtype":"U8","shape":[2]', "'sparse:mask:m' is U8 [2], and the graph says u8[3]"),
        ('"shape":[5]', '"shape":[6]', "'sparse:rows:r' is I32 [6], and the graph says i32[5]"),
        ('columns:r":{"dtype":"U16"', 'columns:r":{"dtype":"I16"', "'sparse:columns:r' is I16 [4], and the graph says u16[4]"),
        (VALUES + "[4]", VALUES + "[9999]", "'r' has values of the shape [9999], needs up to 2048 in one axis"),
        (VALUES + "[4]", VALUES + "[-4]", "'r' has values of the shape [-4]"),
        (VALUES + "[4]", VALUES + "[true]", "'r' has values of the shape [True]"),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused_at_once(sound: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copytree(sound, tmp_path / "g")

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    rewrite_header(tmp_path / "g", change)
    with pytest.raises(ArtifactError) as raised:
        load_graph(tmp_path / "g")
    assert message in str(raised.value)


def test_what_is_not_annotated_or_of_an_old_version_or_too_large_is_refused(sound: Path, tmp_path: Path) -> None:
    for number, (old, new, message) in enumerate(
        [
            (" sparse<unstructured 0.5>", "", "'m' is kept sparse, and f32[4,6] is not annotated as such"),
            ("graphopt-ir 2", "graphopt-ir 1", "its tensors are not the states of the graph"),
            ("f32[4,512]", "f32[4,9000000]", "at most 1024 times as many are read"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        text = (folder / "graph.gir").read_text()
        assert old in text
        (folder / "graph.gir").write_text(text.replace(old, new))
        reseal(folder)
        with pytest.raises(ArtifactError) as raised:
            load_graph(folder)
        assert message in str(raised.value)
