"""Loading runs no code, starts no process and opens nothing outside the folder, whatever is in it.

A process with an audit hook loads every damaged folder; the hook sees each `exec`, `compile`, unpickling,
dynamic library, process, socket, import and opened file.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.artifacts import HOSTILE, reseal, small_artifact

ROOT = Path(__file__).parents[2]

_CHILD = r"""
import json, os, sys

folder = os.path.realpath(sys.argv[1])
from tests.support.artifacts import outcome
from pathlib import Path

watching = False
seen = []
BANNED = ("exec", "compile", "pickle.", "marshal.loads", "ctypes.", "subprocess.", "os.system", "os.exec", "os.spawn",
          "os.posix_spawn", "os.fork", "socket.", "import", "shutil.", "os.remove", "os.rename", "os.chmod", "os.link",
          "os.symlink", "os.mkdir", "urllib.", "code.")

def hook(event, arguments):
    if not watching:
        return
    if event.startswith(BANNED):
        seen.append(f"{event} {arguments!r}"[:300])
    elif event == "open":
        path = arguments[0]
        if isinstance(path, int):
            return  # a descriptor that was opened by name, and seen then
        if not os.path.abspath(os.fsdecode(path)).startswith(folder + os.sep):
            seen.append(f"open {path!r}")

warm = Path(folder, "sound.gir")
assert outcome(warm) == "loaded"
sys.addaudithook(hook)
results = {}
for path in sorted(Path(folder).iterdir()):
    watching = True
    result = outcome(path)
    watching = False
    results[path.name] = result
found = list(seen)
watching = True
compile("1", "control", "eval")
open(os.devnull).close()
import wave
watching = False
control = [entry.split()[0] for entry in seen[len(found):]]
print(json.dumps({"results": results, "seen": found, "control": control, "torch": "torch" in sys.modules}))
"""


def test_nothing_happens_while_hostile_folders_are_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "folders"
    folder.mkdir()
    small_artifact(folder / "sound.gir")
    for index, (damage, _) in enumerate(HOSTILE.values()):
        inside = tmp_path / f"case{index}" / "small.gir"
        inside.parent.mkdir()
        shutil.copytree(folder / "sound.gir", inside)
        damage(inside)
        inside.rename(folder / f"hostile{index}.gir")
    _foreign_formats(folder)
    _flipped(folder)
    command = [sys.executable, "-c", _CHILD, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert {"compile", "open", "import"} <= set(report["control"]), "the hook itself works"
    assert report["seen"] == []
    assert not report["torch"]
    loaded = [name for name, text in report["results"].items() if text == "loaded" and not name.startswith("flipped")]
    assert loaded == ["sound.gir"]
    assert len(report["results"]) > len(HOSTILE) + 100


def _foreign_formats(folder: Path) -> None:
    """Files that other loaders would unpickle or run, under our names and under their own."""
    contents = {
        "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "python": b"import os; os.system('true')\n",
        "shell": b"#!/bin/sh\ntrue\n",
        "elf": b"\x7fELF" + bytes(200),
        "yaml": b"!!python/object/apply:os.system ['true']\n",
        "onnx": b"\x08\x07\x12\x07pytorch",
    }
    for name, content in contents.items():
        for victim in ("graph.gir", "weights.safetensors", "manifest.json"):
            path = folder / f"{name}-{victim}"
            shutil.copytree(folder / "sound.gir", path)
            (path / victim).write_bytes(content)
            if victim != "manifest.json":
                reseal(path)
        (folder / f"{name}.bin").write_bytes(content)
    with zipfile.ZipFile(folder / "archive.pt2", "w") as archive:
        archive.writestr("archive/data.pkl", contents["pickle"])


def _flipped(folder: Path) -> None:
    rng = random.Random(3)
    for index in range(100):
        path = folder / f"flipped{index}"
        shutil.copytree(folder / "sound.gir", path)
        file = path / ("graph.gir" if index % 2 else "weights.safetensors")
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(content))
        reseal(path)
