"""Small saved graphs and ways to damage them, for the tests of loading. Needs no torch to damage or load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from graphopt.errors import ArtifactError
from graphopt.ir.store import load_graph

__all__ = ["HOSTILE", "outcome", "reseal", "rewrite_header", "small_artifact"]


def small_artifact(path: Path) -> None:
    """Save a graph of two nodes with a few small states. Imports torch."""
    import torch

    from graphopt.ir.parser import parse
    from graphopt.ir.store import save_graph
    from tests.support.random_graphs import fill

    graph = parse("""graph small(%x: f32[1,2]) {
      param %w: f32[2,2]
      buffer %steps: i64[]
      constant %mask: bool[2]
      param %half: f16[3]
      %y: f32[1,2] = linear(%x, %w, none)
      %z: f32[1,2] = relu(%y) at "act" "model.py":7
      return %z
    }""")
    fill(graph)
    torch.set_num_threads(1)
    save_graph(graph, path)


def reseal(path: Path) -> None:
    """Write a manifest that fits the files, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (path / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def rewrite_header(path: Path, change: Callable[[str], str]) -> None:
    """Change the JSON header of the weights as text, and seal."""
    raw = (path / "weights.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = change(raw[8 : 8 + length].decode()).encode()
    (path / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    reseal(path)


def _change(text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is not in {text!r}"
    return text.replace(old, new)


def _manifest(old: str, new: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / "manifest.json"
        file.write_text(_change(file.read_text(), old, new))

    return damage


def _whole_manifest(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / "manifest.json").write_text(text)

    return damage


def _text(old: str, new: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / "graph.gir"
        file.write_text(_change(file.read_text(), old, new))
        reseal(path)

    return damage


def _header(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: rewrite_header(path, lambda text: _change(text, old, new))


def _whole_header(text: str) -> Callable[[Path], None]:
    return lambda path: rewrite_header(path, lambda _: text)


def _data(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / "weights.safetensors"
        file.write_bytes(change(file.read_bytes()))
        reseal(path)

    return damage


def _move_out(path: Path, name: str) -> Path:
    outside = path.parent / f"outside-{name}"
    shutil.move(path / name, outside)
    return outside


def _symlink(path: Path) -> None:
    (path / "weights.safetensors").symlink_to(_move_out(path, "weights.safetensors"))


def _symlinked_manifest(path: Path) -> None:
    (path / "manifest.json").symlink_to(_move_out(path, "manifest.json"))


def _hardlink(path: Path) -> None:
    os.link(_move_out(path, "graph.gir"), path / "graph.gir")


def _pipe(path: Path) -> None:
    (path / "graph.gir").unlink()
    os.mkfifo(path / "graph.gir")


def _folder(path: Path) -> None:
    (path / "graph.gir").unlink()
    (path / "graph.gir").mkdir()


def _extra(path: Path) -> None:
    (path / "setup.py").write_text("raise SystemExit")


def _pickle(path: Path) -> None:
    (path / "weights.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR.")
    reseal(path)


def _missing(path: Path) -> None:
    (path / "weights.safetensors").unlink()


def _traversal(path: Path) -> None:
    (path.parent / "secret").write_text("x")
    _manifest('"graph.gir"', '"../secret"')(path)


def _absolute(path: Path) -> None:
    _manifest('"graph.gir"', '"/etc/passwd"')(path)


def _length(value: int) -> Callable[[Path], None]:
    return _data(lambda raw: (value & (2**64 - 1)).to_bytes(8, "little") + raw[8:])


def _bad_hash(path: Path) -> None:
    (path / "graph.gir").write_text((path / "graph.gir").read_text().replace("model.py", "madel.py"))


def _latin(path: Path) -> None:
    (path / "graph.gir").write_bytes(b"graphopt-ir 1\n\xff")
    reseal(path)


def _symbolic_state(path: Path) -> None:
    _text("(%x: f32[1,2])", "(%x: f32[1,2]) where n in [1, 2]")(path)
    _text("f32[2,2]", "f32[n,2]")(path)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "symbolic link": (_symlink, r"weights\.safetensors: a symbolic link, needs a plain file"),
    "linked manifest": (_symlinked_manifest, r"manifest\.json: a symbolic link"),
    "hard link": (_hardlink, r"graph\.gir: a hard link, 2 names for one file"),
    "pipe": (_pipe, r"graph\.gir: not a plain file"),
    "folder for a file": (_folder, r"graph\.gir: not a plain file"),
    "extra file": (_extra, r"the folder holds graph\.gir, manifest\.json, setup\.py, weights\.safetensors, needs"),
    "missing file": (_missing, r"the folder holds graph\.gir, manifest\.json, needs"),
    "traversal": (_traversal, r"lists the file '\.\./secret', which is no plain name"),
    "absolute path": (_absolute, r"lists the file '/etc/passwd', which is no plain name"),
    "pickle for weights": (_pickle, r"a header of \d+ bytes in a file of"),
    "changed text": (_bad_hash, r"graph\.gir: SHA-256 is [0-9a-f]{64}, the manifest says"),
    "manifest: duplicate key": (_manifest('"version"', '"format": "graphopt", "version"'), r"the key 'format' is given twice"),
    "manifest: duplicate file": (_manifest('"files": {', '"files": {"graph.gir": {},'), r"the key 'graph\.gir' is given twice"),
    "manifest: not ours": (_manifest('"graphopt",\n  "graphopt"', '"onnx",\n  "graphopt"'), r"'format' is not 'graphopt'"),
    "manifest: newer": (_manifest('"version": 1', '"version": 2'), r"format version 2, this graphopt reads up to 1\n.*\n  fix: update"),
    "manifest: version true": (_manifest('"version": 1', '"version": true'), r"'version' is True, needs a positive integer"),
    "manifest: huge version": (_manifest('"version": 1', '"version": ' + "9" * 9000), r"no proper JSON"),
    "manifest: NaN": (_manifest('"version": 1', '"version": NaN'), r"NaN is not allowed"),
    "manifest: deep": (_whole_manifest("[" * 100_000), r"nested too deeply"),
    "manifest: list": (_whole_manifest("[]"), r"'format' is not 'graphopt'"),
    "manifest: empty": (_whole_manifest(""), r"no proper JSON"),
    "manifest: huge": (_whole_manifest("{}" + " " * (1 << 20)), r"manifest\.json: over 1048576 bytes"),
    "manifest: files is a list": (_whole_manifest('{"format": "graphopt", "version": 1, "files": []}'), r"'files' is missing or no object"),
    "manifest: negative size": (_manifest('"bytes": ', '"bytes": -'), r"needs 'bytes' >= 0"),
    "manifest: no files": (_whole_manifest('{"format": "graphopt", "version": 1, "files": {}}'), r"lists nothing, needs graph\.gir"),
    "text: no version": (_text("graphopt-ir 1", "graph"), r"the first line is 'graph', needs 'graphopt-ir 2'"),
    "text: newer": (_text("graphopt-ir 1", "graphopt-ir 3"), r"text of version 3, this graphopt reads up to 2"),
    "text: huge version": (_text("graphopt-ir 1", "graphopt-ir " + "1" * 5000), r"the first line is"),
    "text: syntax": (_text("%y: f32[1,2] =", "%y: f32[1,2 ="), r"graph\.gir: line 7, column 15: expected ',' or '\]'"),
    "text: deep": (_text("relu(%y)", "f(" + "(" * 9000), r"nested deeper than 32"),
    "text: undefined": (_text("relu(%y)", "relu(%q)"), r"%q is used before it is defined"),
    "text: reference": (_text("relu(%y)", "relu(%y) {a=$9}"), r"has \$9, and there are 1 operands"),
    "text: overflowing shape": (_text("f32[2,2]", "f32[9223372036854775807,4611686018427387904]"), r"and the graph says f32\[92233"),
    "text: symbolic state": (_symbolic_state, r"needs a static shape"),
    "text: no hash": (_text(" sha256 ", " # "), r"needs a static shape and a sha256"),
    "text: a state more": (_text("  param %w", f'  param %v: f32[1] sha256 "{"0" * 64}"\n  param %w'), r"missing \['v'\], left over \[\]"),
    "text: another dtype": (_text("f16[3]", "bf16[3]"), r"'half' is F16 \[3\], and the graph says bf16\[3\]"),
    "text: not UTF-8": (_latin, r"not UTF-8: invalid start byte at byte 14"),
    "weights: empty": (_data(lambda _: b""), r"a header of 0 bytes in a file of 0"),
    "weights: length 2^63": (_length(2**63), r"a header of 9223372036854775808 bytes"),
    "weights: length -1": (_length(-1), r"a header of 18446744073709551615 bytes"),
    "weights: length 0": (_length(0), r"no proper JSON"),
    "weights: cut": (_data(lambda raw: raw[:-1]), r"the tensors take \d+ bytes, the file has"),
    "weights: longer": (_data(lambda raw: raw + b"\0"), r"the tensors take \d+ bytes, the file has"),
    "weights: list": (_whole_header("[]"), r"the header is no JSON object"),
    "weights: deep": (_whole_header('{"w":' * 50_000), r"nested too deeply"),
    "weights: duplicate": (_header('"w":', '"half":'), r"the key 'half' is given twice"),
    "weights: extra tensor": (_header('{"__metadata__"', '{"v":{},"__metadata__"'), r"left over \['v'\]"),
    "weights: extra field": (_header('"dtype":"F16"', '"dtype":"F16","x":1'), r"and nothing else"),
    "weights: dtype": (_header('"F16"', '"PICKLE"'), r"'half' is PICKLE \[3\], and the graph says f16\[3\]"),
    "weights: shape": (_header("[2,2]", "[4,1]"), r"'w' is F32 \[4, 1\], and the graph says f32\[2,2\]"),
    "weights: float shape": (_header("[2,2]", "[2.0,2]"), r"'w' is F32 \[2\.0, 2\]"),
    "weights: bool shape": (_header('"shape":[2],', '"shape":[true],'), r"'mask' is BOOL \[True\]"),
    "weights: shape is text": (_header("[2,2]", '"22"'), r"'w' is F32 22"),
    "weights: overlap": (_header("[24,30]", "[18,24]"), r"tensor 'half' begins at byte 18|begins at byte"),
    "weights: hole": (_header("[24,30]", "[26,32]"), r"begins at byte 26, the one before ends at 24"),
    "weights: negative": (_header("[24,30]", "[-6,0]"), r"has the offsets \[-6, 0\], needs two integers in order"),
    "weights: backwards": (_header("[24,30]", "[30,24]"), r"has the offsets \[30, 24\]"),
    "weights: offsets are true": (_header("[24,30]", "[true,30]"), r"has the offsets \[True, 30\]"),
    "weights: three offsets": (_header("[24,30]", "[24,27,30]"), r"has the offsets \[24, 27, 30\]"),
    "weights: huge offsets": (_header("[24,30]", "[24,9223372036854775837]"), r"'half' has 9223372036854775813 bytes"),
    "weights: entry is null": (
        _header('{"dtype":"F16","shape":[3],"data_offsets":[24,30]}', "null"),
        r"needs dtype, shape and data_offsets",
    ),
}
"""Name -> (damage to an artifact of `small_artifact`, what the error says)."""


def outcome(path: Path) -> str:
    """`loaded`, or the text of the `ArtifactError`; anything else is raised."""
    try:
        load_graph(path)
    except ArtifactError as error:
        return str(error)
    return "loaded"
