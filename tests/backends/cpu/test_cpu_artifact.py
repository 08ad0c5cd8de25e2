"""Saved executables of the backend cpu: rebuilt where they are loaded, nothing of the folder runs, damage is one error."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.cpu import artifact
from graphopt.backends.cpu.artifact import load, load_graph
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.cpu.isa import supported
from graphopt.errors import ArtifactError, BackendError


class Small(nn.Module):
    """A convolution, a tied weight, an unused buffer, and where asked a node that has no kernel."""

    def __init__(self, *, histogram: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.first = nn.Linear(20, 20)
        self.second = nn.Linear(20, 20)
        self.second.weight = self.first.weight
        self.register_buffer("unused", torch.arange(3))
        self.histogram = histogram

    def forward(self, x: torch.Tensor) -> Any:
        y = self.second(torch.relu(self.first(torch.relu(self.conv(x)).mean((2, 3)))))
        return (torch.relu(y) + torch.histc(y, 8).sum(), y) if self.histogram else y


X = torch.linspace(-1.0, 1.0, 1 * 3 * 8 * 8).reshape(1, 3, 8, 8)
FILES = ["cpu.json", "graph.gir", "manifest.json", "network.cpp", "plan.txt", "weights.safetensors"]


def lowered(*, histogram: bool = False, **options: Any) -> CpuExecutable:
    graph = graphopt.capture(Small(histogram=histogram).eval(), (X,))
    made = graphopt.lower(graph, "cpu", **{"measure": False, "threads": 1, **options})
    assert isinstance(made, CpuExecutable)
    return made


@pytest.fixture(scope="module")
def executable() -> CpuExecutable:
    return lowered()


@pytest.fixture(scope="module")
def sound(executable: CpuExecutable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "small"
    executable.save(path)
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


def test_saved_executable_gives_the_same_bits(sound: Path, executable: CpuExecutable) -> None:
    assert sorted(file.name for file in sound.iterdir()) == FILES
    again = graphopt.load(sound)
    assert isinstance(again, CpuExecutable)
    assert torch.equal(again(X), executable(X))
    assert again.report == executable.report
    assert again.plan == executable.plan == (sound / "plan.txt").read_text()
    assert again.options == executable.options


def test_nodes_without_a_kernel_come_back_too(tmp_path: Path) -> None:
    executable = lowered(histogram=True)
    executable.save(tmp_path / "a")
    again = load(tmp_path / "a")
    for one, other in zip(again(X), executable(X), strict=True):
        assert torch.equal(one, other)
    assert again.report == executable.report
    assert any("histc" in line for line in again.report)
    lowered().save(tmp_path / "a")
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == FILES, "an executable of fewer plans takes the place"


def test_states_come_back_and_are_stored_once(sound: Path) -> None:
    graph = load(sound).graph
    states = Small().state_dict()
    for name, state in graph.states.items():
        assert state.data is not None
        assert torch.equal(state.data.tensor(), states[name])
        assert torch.equal(state.data.precise(), states[name].double() if states[name].is_floating_point() else states[name])
    numbers = 4 * (20 * 27 + 20 + 20 * 20 + 2 * 20) + 8 * 3
    assert (sound / "weights.safetensors").stat().st_size < numbers + 1024


def test_loaded_executable_can_be_saved_again(sound: Path, tmp_path: Path) -> None:
    load(sound).save(tmp_path / "again")
    for file in sound.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_loading_and_running_needs_no_torch(sound: Path) -> None:
    code = f"""
import sys
import numpy as np
import graphopt
executable = graphopt.load({str(sound)!r})
found = executable(np.zeros((1, 3, 8, 8), dtype=np.float32))
assert isinstance(found, np.ndarray) and found.shape == (1, 20), found
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_the_graph_is_read_without_a_compiler(sound: Path, executable: CpuExecutable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert load_graph(sound).node_count == executable.graph.node_count
    code = f"from graphopt.cli import main; main(['check', {str(sound)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "ok, graph 'Small'" in done.stdout, done.stderr


def test_options_can_be_replaced(sound: Path, executable: CpuExecutable) -> None:
    again = load(sound, threads=2)
    assert again.options.threads == 2
    assert torch.equal(again(X), executable(X))
    with pytest.raises(BackendError, match="cpu has no option 'speed'"):
        load(sound, speed="high")


def test_an_instruction_set_that_is_not_here_becomes_native(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "supported", lambda: ("generic",))
    assert load(sound, isa="avx512").options.isa == "native"


def test_a_graph_with_symbols_comes_back_with_the_plans_of_its_sizes(tmp_path: Path) -> None:
    graph = graphopt.capture(Small().eval(), (X.expand(2, 3, 8, 8),), dynamic={"x": {0: "batch"}})
    executable = graphopt.lower(graph, "cpu", measure=False, threads=1)
    wanted = {size: executable(X.expand(size, 3, 8, 8)) for size in (2, 3)}
    executable.save(tmp_path / "a")
    document = json.loads((tmp_path / "a" / "cpu.json").read_text())
    assert [list(choice["sizes"].values()) for choice in document["choices"]] == [[2], [3]]
    assert (tmp_path / "a" / "network1.cpp").is_file()
    again = load(tmp_path / "a")
    assert not again.programs
    for size, output in wanted.items():
        assert torch.equal(again(X.expand(size, 3, 8, 8)), output)


# Choices


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "cpu.json").read_text())
    change(document)
    (folder / "cpu.json").write_text(json.dumps(document))
    rehash(folder)


def test_choices_are_taken_on_the_same_machine_only(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path)

    def explain(document: dict[str, Any]) -> None:
        for step in document["choices"][0]["steps"]:
            step[1] = "because"

    edit(folder, explain)
    assert "[because]" in load(folder).plan
    assert "[because]" not in load(folder, threads=2).plan
    edit(folder, lambda document: document["machine"].update(cpu="another"))
    assert "[because]" not in load(folder).plan


def test_choices_that_are_not_to_be_had_are_made_anew(sound: Path, tmp_path: Path, executable: CpuExecutable) -> None:
    folder = copy_of(sound, tmp_path)
    for steps in ([], [["0" * 16, "x"]], "more"):

        def change(document: dict[str, Any], steps: object = steps) -> None:
            old = document["choices"][0]["steps"]
            document["choices"][0]["steps"] = old + old if steps == "more" else steps

        edit(folder, change)
        assert torch.equal(load(folder)(X), executable(X))


# Damage


@pytest.mark.parametrize("name", FILES)
def test_cut_off_file_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    content = (folder / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        (folder / name).write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            load(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_flipped_bit_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 3] ^= 4
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: SHA-256 is"):
        load(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("manifest.json", "cpu.json")])
def test_missing_or_linked_file_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError):
        load(folder)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        load(folder)


@pytest.mark.parametrize("name", ["network.so", "evil.py", "weights.bin", "network.cpp.so", "network0000001.cpp"])
def test_a_file_that_does_not_belong_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(sound, tmp_path)
    (folder / name).write_bytes(b"\x7fELF")
    with pytest.raises(ArtifactError, match="the folder holds"):
        load(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rehash(folder)
    with pytest.raises(ArtifactError, match="lists"):
        load(folder)


HOSTILE_DOCUMENTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.update(version=2), "version is 2, this graphopt reads up to 1"),
    (lambda d: d.update(version=True), "version is True"),
    (lambda d: d.update(backend="onnxruntime"), "not an executable of the backend cpu"),
    (lambda d: d.pop("choices"), "'options', 'machine' or 'choices' is missing"),
    (lambda d: d.update(options=[]), "'options', 'machine' or 'choices' is missing or of the wrong type"),
    (lambda d: d.update(choices=["x"]), "a choice is x, needs sizes and steps"),
    (lambda d: d["choices"][0].update(sizes={"n": -1}), "a choice is"),
    (lambda d: d["choices"][0].update(sizes={"n": 1.5}), "a choice is"),
    (lambda d: d["choices"][0].update(steps=[["../../x", ""]]), "a step is .*, needs a hash of 16 digits"),
    (lambda d: d["choices"][0].update(steps=[[1, 2]]), "a step is"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_DOCUMENTS)
def test_hostile_document_is_refused(sound: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    folder = copy_of(sound, tmp_path)
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 1 << 40}, "threads is"),
        ({"threads": "1; rm"}, "threads is"),
        ({"isa": "native -fplugin=/tmp/evil.so"}, "isa is"),
        ({"flags": "-fplugin=evil"}, "cpu has no option 'flags'"),
    ],
)
def test_hostile_options_are_refused(sound: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = copy_of(sound, tmp_path)
    edit(folder, lambda document: document["options"].update(options))
    with pytest.raises(BackendError, match=message):
        load(folder)


HOSTILE_GRAPHS: list[tuple[str, str, str]] = [
    ("f32[1,20,8,8] = conv2d", "f32[1,20,8,4096] = conv2d", r"conv2d"),
    ("f32[1,20] = linear", "f32[1,2000] = linear", "linear"),
    ("param %conv.bias: f32[20]", "param %conv.bias: f32[2000000]", "conv"),
    ("padding=(1, 1)", "padding=(-9, -9)", "conv2d|padding"),
    ("groups=1", "groups=7", "conv2d|groups"),
    ("graph Small(%x: f32[1,3,8,8])", "graph Small(%x: f32[1,3,80,80])", "conv2d"),
]


@pytest.mark.parametrize(("old", "new", "message"), HOSTILE_GRAPHS)
def test_types_of_a_graph_are_not_believed(sound: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = copy_of(sound, tmp_path)
    text = (folder / "graph.gir").read_text()
    assert old in text
    (folder / "graph.gir").write_text(text.replace(old, new))
    rehash(folder)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


def test_changed_numbers_are_refused(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path)
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-4] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    rehash(folder)
    with pytest.raises(ArtifactError, match=r"has the SHA-256 .*, the graph says"):
        load(folder)


def test_folder_that_is_something_else_is_left_alone(executable: CpuExecutable, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="no graphopt artifact"):
        executable.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


# Nothing of the folder runs


def test_the_code_in_the_folder_is_for_people_only(sound: Path, tmp_path: Path, executable: CpuExecutable) -> None:
    folder = copy_of(sound, tmp_path)
    (folder / "network.cpp").write_text(
        f'#include <stdlib.h>\n__attribute__((constructor)) void f() {{ system("touch {tmp_path}/owned"); }}\n'
    )
    (folder / "plan.txt").write_text("a plan that says otherwise\n")
    rehash(folder)
    again = load(folder)
    assert torch.equal(again(X), executable(X))
    assert again.plan == executable.plan
    assert not (tmp_path / "owned").exists()


TRAP = """
import sys, json
from pathlib import Path
import graphopt
from graphopt.backends.cpu.artifact import load, load_graph
from graphopt.errors import GraphoptError
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "ctypes.dlopen", "pickle.find_class", "socket.connect", "exec"}
events = []
armed = False
def hook(event, arguments):
    if armed and event in FORBIDDEN:
        events.append(event)
sys.addaudithook(hook)
import graphopt.backends.cpu.executable, graphopt.backends.cpu.toolchain, graphopt.ops, graphopt.ir.parser
for folder in sorted(Path(sys.argv[1]).iterdir()):
    armed = True
    try:
        load(folder)
        events.append(f"{folder.name} was loaded")
    except GraphoptError:
        pass
    armed = False
print(json.dumps(events))
"""


def test_nothing_is_compiled_or_loaded_for_a_hostile_folder(sound: Path, tmp_path: Path) -> None:
    """No compiler, no library and no code before everything about the folder was found right (R16)."""
    folders = tmp_path / "hostile"
    folders.mkdir()

    def fresh(name: str) -> Path:
        (folders / name).mkdir()
        return copy_of(sound, folders / name).rename(folders / f"{name}_")

    for number, (change, _) in enumerate(HOSTILE_DOCUMENTS):
        edit(fresh(f"document{number}"), change)
    for number, (old, new, _) in enumerate(HOSTILE_GRAPHS):
        folder = fresh(f"graph{number}")
        (folder / "graph.gir").write_text((folder / "graph.gir").read_text().replace(old, new))
        rehash(folder)
    for name in FILES:
        folder = fresh(name.replace(".", "_"))
        (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    for path in folders.iterdir():
        if not any(path.iterdir()):
            path.rmdir()
    done = subprocess.run([sys.executable, "-c", TRAP, str(folders)], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, json.loads(done.stdout or "null")) == (0, []), done.stderr


def test_same_graph_and_machine_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the hash seed and the folder (R23)."""
    code = """
import sys
from tests.backends.cpu.test_cpu_artifact import lowered
lowered().save(sys.argv[1])
"""
    found: list[dict[str, bytes]] = []
    for seed in ("1", "77"):
        target = tmp_path / f"run{seed}" / "artifact"
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
        subprocess.run([sys.executable, "-c", code, str(target)], env=environment, cwd=tmp_path, check=True, timeout=240)
        found.append({file.name: file.read_bytes() for file in target.iterdir()})
    assert found[0] == found[1]


def test_every_isa_gives_nearly_the_same(executable: CpuExecutable) -> None:
    wanted = numpy.asarray(executable(X))
    for isa in supported():
        assert numpy.abs(numpy.asarray(lowered(isa=isa)(X)) - wanted).max() < 1e-5
