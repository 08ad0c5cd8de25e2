"""The standalone export: configured, built and run with CMake, and compared with what Python computes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.cpu.isa import supported
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.standalone import export_standalone
from graphopt.errors import ArtifactError, BackendError, LoweringError
from graphopt.ir.graph import Graph

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")

PLAIN = CpuOptions(measure=False, threads=1)


class Two(nn.Module):
    """Two inputs, two outputs, in an order that is not that of their computation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.linear = nn.Linear(20, 7)

    def forward(self, mask: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.conv(x))
        return self.linear(y.mean((2, 3))), y * mask


MASK = torch.linspace(0.0, 1.0, 64).reshape(1, 1, 8, 8)
X = torch.linspace(-1.0, 1.0, 3 * 64).reshape(1, 3, 8, 8)


def captured() -> Graph:
    return graphopt.capture(Two().eval(), (MASK, X))


class Built:
    """An exported, compiled network."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.build = folder.parent / f"{folder.name}-build"
        run("cmake", "-S", str(folder), "-B", str(self.build), *options)
        run("cmake", "--build", str(self.build), "--parallel", "2")

    def example(self, *arguments: str, status: int = 0, **environment: str) -> tuple[str, list[bytes]]:
        """What the example prints, and the outputs it writes."""
        prefix = self.build / "result"
        done = subprocess.run(
            [str(self.build / "example"), *arguments, "--output", str(prefix)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == status, done.stderr + done.stdout
        return done.stdout + done.stderr, [path.read_bytes() for path in sorted(self.build.glob("result*.bin"))]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("standalone") / "two"
    export_standalone(captured(), folder, name="two", options=PLAIN)
    MASK.numpy().tofile(folder.parent / "mask.bin")
    X.numpy().tofile(folder.parent / "x.bin")
    return Built(folder, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")


def files_of(built: Built) -> tuple[str, str, str]:
    return str(built.folder / "weights.bin"), str(built.folder.parent / "mask.bin"), str(built.folder.parent / "x.bin")


@pytest.mark.parametrize("isa", supported())
@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_example_computes_what_python_computes(built: Built, isa: str, threads: str) -> None:
    text, outputs = built.example(*files_of(built), "--threads", threads, TWO_ISA=isa)
    executable = graphopt.lower(captured(), "cpu", measure=False, threads=1, isa=isa)
    for output, wanted in zip(outputs, executable(MASK, X), strict=True):
        assert output == wanted.numpy().tobytes()
    assert text.startswith(f"{isa}, {threads} threads, ")
    assert "input  mask: f32[1,1,8,8]\ninput  x: f32[1,3,8,8]\n" in text
    assert re.search(r"output linear: f32\[1,7\] checksum [0-9a-f]{16} ", text)
    assert re.search(r"median \d+\.\d+ ms", text)


def test_the_best_instruction_set_is_picked(built: Built) -> None:
    assert built.example(*files_of(built))[0].startswith(f"{supported()[0]}, ")
    text, _ = built.example(*files_of(built), status=1, TWO_ISA="none")
    assert "this processor has none of the instruction sets" in text


def test_instruction_sets_share_no_code(built: Built) -> None:
    """What is inline in one variant must never be linked into another, which may run where it can't."""
    listed = run("nm", "-C", "--defined-only", str(built.build / "libtwo_network.a"))
    weak = [line[19:] for line in listed.splitlines() if line[17:18] in ("W", "V", "u")]
    assert weak
    assert [name for name in weak if not re.search(r"two_(avx512|avx2|generic)::", name)] == []


def test_wrong_weights_are_refused(built: Built, tmp_path: Path) -> None:
    weights = (built.folder / "weights.bin").read_bytes()
    cases = {
        "missing": (None, "No such file"),
        "short": (weights[:-1], "not the size that this network's weights have"),
        "empty": (b"", "not the size"),
        "foreign": (weights[:-64] + b"x" * 64, "no weights file of this version"),
        "other": (weights[:-32] + bytes(8) + weights[-24:], "the weights of another network"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        text, _ = built.example(str(path), status=1)
        assert f"error: {path}: {reason}" in text
    text, _ = built.example(str(tmp_path), status=1)
    assert "not a plain file" in text


def test_bad_arguments_are_refused(built: Built, tmp_path: Path) -> None:
    (tmp_path / "short.bin").write_bytes(b"1234")
    weights, *_ = files_of(built)
    assert "short.bin needs to have 256 bytes" in built.example(weights, str(tmp_path / "short.bin"), status=1)[0]
    assert "5000, needs 0 (one for each core) to 4096" in built.example(weights, "--threads", "5000", status=1)[0]
    assert "x is no number" in built.example(weights, "--runs", "x", status=1)[0]


C_PROGRAM = """
#include <stdio.h>
#include "network.h"
int main(void) {
  two_network* network = two_create("weights.bin", 2);
  two_tensor tensor;
  float mask[64] = {0}, x[192] = {0}, scores[7] = {0}, image[1280] = {0};
  const void* inputs[2] = {mask, x};
  void* outputs[2] = {scores, image};
  if (network == NULL) return 1;
  if (two_api_version() != TWO_API_VERSION || two_input_count() != 2 || two_output_count() != 2) return 2;
  if (two_input(0, &tensor) != TWO_OK || tensor.bytes != sizeof mask || tensor.rank != 4) return 3;
  if (two_output(1, &tensor) != TWO_OK || tensor.bytes != sizeof image || tensor.shape[1] != 20) return 4;
  if (two_input(2, &tensor) != TWO_INVALID || two_output(-1, &tensor) != TWO_INVALID || two_input(0, NULL) != TWO_INVALID) return 5;
  if (two_run(NULL, inputs, outputs) != TWO_INVALID || two_run(network, NULL, outputs) != TWO_INVALID) return 6;
  if (two_create(NULL, 0) != NULL || two_create_from_memory(mask, 1, 0) != NULL) return 7;
  if (two_run(network, inputs, outputs) != TWO_OK || two_threads(network) != 2) return 8;
  two_destroy(network);
  two_destroy(NULL);
  printf("%.6f\\n", scores[0]);
  return 0;
}
"""


def test_a_c_program_can_use_the_library(built: Built, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(C_PROGRAM)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{built.folder}"]
    run("cc", *flags, str(tmp_path / "program.c"), str(built.build / "libtwo_network.a"), "-pthread", "-o", str(tmp_path / "program"))
    done = subprocess.run([str(tmp_path / "program")], cwd=built.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    executable = graphopt.lower(captured(), "cpu", measure=False, threads=1)
    wanted = executable(torch.zeros_like(MASK), torch.zeros_like(X))[0][0, 0].item()
    assert done.stdout.strip() == f"{wanted:.6f}"


def test_two_networks_go_into_one_program(built: Built, tmp_path: Path) -> None:
    torch.manual_seed(5)
    x = torch.linspace(0.0, 1.0, 11).reshape(1, 11)
    graph = graphopt.capture(nn.Sequential(nn.Linear(11, 5), nn.ReLU()).eval(), (x,))
    export_standalone(graph, tmp_path / "other", name="other", isas=["generic"], options=PLAIN)
    other = Built(tmp_path / "other")
    program = """
#include <stdio.h>
#include "other/network.h"
#include "two/network.h"
int main() {
  other_network* first = other_create("other/weights.bin", 1);
  two_network* second = two_create("two/weights.bin", 1);
  if (first == nullptr || second == nullptr) return 1;
  float x[11], y[5] = {};
  for (int i = 0; i < 11; ++i) x[i] = static_cast<float>(i) / 10.0f;
  const void* inputs[] = {x};
  void* outputs[] = {y};
  other_run(first, inputs, outputs);
  for (float value : y) printf("%.5f ", static_cast<double>(value));
  if (other_create("two/weights.bin", 1) != nullptr) return 2;
  other_destroy(first);
  two_destroy(second);
  return 0;
}
"""
    (tmp_path / "program.cpp").write_text(program)
    (tmp_path / "two").symlink_to(built.folder)
    libraries = [str(other.build / "libother_network.a"), str(built.build / "libtwo_network.a")]
    run("c++", "-std=c++17", f"-I{tmp_path}", str(tmp_path / "program.cpp"), *libraries, "-pthread", "-o", str(tmp_path / "program"))
    done = subprocess.run([str(tmp_path / "program")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    wanted = graphopt.lower(graph, "cpu", measure=False, threads=1, isa="generic")(x)[0]
    assert numpy.allclose([float(word) for word in done.stdout.split()], wanted.numpy(), atol=1e-5)


def test_it_builds_without_cmake_as_the_readme_says(built: Built, tmp_path: Path) -> None:
    text = (built.folder / "README.md").read_text()
    commands = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    folder = tmp_path / "plain"
    shutil.copytree(built.folder, folder)
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, check=True, timeout=280)
    done = subprocess.run(["./example", *files_of(built)], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("native, ")


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(built: Built, tmp_path: Path, sanitizers: str) -> None:
    shutil.copytree(built.folder, tmp_path / "two")
    sanitized = Built(tmp_path / "two", f"-DSANITIZE={sanitizers}", "-DISAS=avx2" if "avx2" in supported() else "-DISAS=generic")
    plain = built.example(*files_of(built), TWO_ISA="avx2" if "avx2" in supported() else "generic")[1]
    text, outputs = sanitized.example(*files_of(built), "--threads", "3", UBSAN_OPTIONS="halt_on_error=1")
    assert outputs == plain, text


def test_the_folder_tells_what_is_in_it(built: Built) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert names >= {"CMakeLists.txt", "README.md", "network.h", "network.cpp", "main.cpp", "dispatch.cpp", "weights.bin", "plan.txt"}
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    readme = (built.folder / "README.md").read_text()
    assert (
        "| input 0 | `mask` | `f32[1, 1, 8, 8]` |\n| input 1 | `x` | `f32[1, 3, 8, 8]` |\n| output 0 | `linear` | `f32[1, 7]` |" in readme
    )
    assert "@" not in readme
    for name in names - {"weights.bin", "plan.txt", "manifest.json", "README.md"}:
        text = (built.folder / name).read_text()
        assert "GRAPHOPT_" not in text
        assert not re.search(r"\bgraphopt_", text)


def test_an_export_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for _ in range(2):
        export_standalone(captured(), tmp_path / "a", options=PLAIN)
    (tmp_path / "a" / "mine.txt").write_text("precious")
    with pytest.raises(ArtifactError, match=r"it holds mine\.txt"):
        export_standalone(captured(), tmp_path / "a", options=PLAIN)


@pytest.mark.parametrize("name", ["", "Model", "a-b", "a;b", "1a", "a" * 50, "int main(){}", "ä"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError, match="needs a small letter, then small letters, digits and '_'"):
        export_standalone(captured(), tmp_path / "a", name=name, options=PLAIN)


@pytest.mark.parametrize("isas", [[], ["sse"], ["native"]])
def test_odd_instruction_sets_are_refused(tmp_path: Path, isas: list[str]) -> None:
    with pytest.raises(BackendError, match="needs some of avx512, avx2, generic"):
        export_standalone(captured(), tmp_path / "a", isas=isas, options=PLAIN)


class Odd(nn.Module):
    """Returns what can't be exported."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        match self.kind:
            case "foreign":
                return y + torch.histc(y, 8).sum()
            case "input":
                return y, x
            case _:
                return y


@pytest.mark.parametrize(
    ("kind", "dynamic", "reason"),
    [
        ("foreign", None, r"histc.* can't be exported"),
        ("input", None, "returns an input, a constant or a value twice"),
        ("plain", {"x": {0: "batch"}}, r"has symbolic sizes \(batch\), standalone code has fixed ones"),
    ],
)
def test_what_can_not_stand_alone_is_refused(tmp_path: Path, kind: str, dynamic: dict[str, dict[int, str]] | None, reason: str) -> None:
    graph = graphopt.capture(Odd(kind).eval(), (torch.zeros(2, 4),), dynamic=dynamic)
    with pytest.raises(LoweringError, match=reason):
        export_standalone(graph, tmp_path / "a", options=PLAIN)
    assert not (tmp_path / "a").exists()


def test_hostile_names_never_reach_the_code(tmp_path: Path) -> None:
    evil = 'x"; system("touch owned"); //\\\n*/ ??/'
    text = f"""
graph evil(%{json.dumps(evil)}: f32[1,4]) {{
  param %{json.dumps(evil + "w")}: f32[4,4]
  %{json.dumps(evil + "y")}: f32[1,4] = linear(%{json.dumps(evil)}, %{json.dumps(evil + "w")}, none)
  return %{json.dumps(evil + "y")}
}}
"""
    from dataclasses import replace

    from graphopt.ir.data import TensorData
    from graphopt.ir.graph import GraphEditor

    graph = graphopt.parse(text)
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        editor.update_state(replace(state, data=TensorData(torch.ones(4, 4))))
    export_standalone(graph, tmp_path / "evil", isas=["generic"], options=PLAIN)
    source = (tmp_path / "evil" / "network.cpp").read_text()
    code = "\n".join(line.split("//")[0] for line in source.splitlines())
    assert "system" not in code
    assert '"input0"' in code
    assert '"output0"' in code
    assert all(" " <= character <= "~" or character == "\n" for character in source)
    text, outputs = Built(tmp_path / "evil").example(str(tmp_path / "evil" / "weights.bin"))
    assert outputs == [bytes(16)]
    assert not list(tmp_path.rglob("owned"))
