"""What the sources must not contain: ways to run data as code, and paths of one machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop", "sympy.parsing"})
CALLS = frozenset({"eval", "exec", "compile", "__import__", "sympify", "parse_expr", "execfile"})
METHODS = frozenset(
    {
        "torch.load",
        "torch.save",
        "torch.export.load",
        "torch.jit.load",
        "yaml.load",
        "yaml.unsafe_load",
        "os.system",
        "os.popen",
        "sympy.sympify",
        "tempfile.mktemp",
        "builtins.eval",
        "builtins.exec",
    }
)
ALLOWED = {("tools/bench_quality/tasks/crepe.py", "calls torch.load"): "weights of a package, read with weights_only"}
PLACES = ("/tmp", "/var/tmp", "/home/", "/root/")


def sources() -> list[Path]:
    return sorted(path for room in ("graphopt", "passes", "tools") for path in (ROOT / room).rglob("*.py") if not path.is_symlink())


def dotted(node: ast.expr) -> str:
    """`a.b.c`; `.c` for an attribute of something that is no name, as in `make().eval()`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ".".join(["", *reversed(parts)])


def findings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and what is wrong there."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, f"imports {name.name}") for name in node.names if name.name in MODULES)
            case ast.ImportFrom():
                if node.module in MODULES:
                    yield node.lineno, f"imports from {node.module}"
                yield from (
                    (node.lineno, f"imports {node.module}.{name.name}") for name in node.names if f"{node.module}.{name.name}" in METHODS
                )
            case ast.Call():
                name = dotted(node.func)
                if name in CALLS or name in METHODS or (name == "getattr" and _names_banned_method(node)):
                    yield node.lineno, f"calls {name}"
                for keyword in node.keywords:
                    if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                        yield node.lineno, "passes shell="
                    if keyword.arg == "allow_pickle":
                        yield node.lineno, "passes allow_pickle="
                    if keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False:
                        yield node.lineno, "passes weights_only=False"
            case ast.Constant(value=str() as text) if text.startswith(PLACES):
                yield node.lineno, f"names {text!r}"
            case ast.ExceptHandler(body=[ast.Pass()]):
                yield node.lineno, "swallows an exception"
            case _:
                pass


def _names_banned_method(call: ast.Call) -> bool:
    return len(call.args) >= 2 and isinstance(call.args[1], ast.Constant) and call.args[1].value in CALLS


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_source_holds_nothing_banned(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = [f"{name}:{line}: {what}" for line, what in findings(ast.parse(path.read_text())) if (name, what) not in ALLOWED]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(x)",
        "torch.load(p)",
        "from torch import load",
        "import torch; torch.export.load(p)",
        "subprocess.run(x, shell=True)",
        "sympy.sympify(t)",
        "yaml.load(t)",
        "np.load(p, allow_pickle=True)",
        "p = '/tmp/x'",
        "try: f()\nexcept Exception: pass",
        "getattr(builtins, 'exec')(x)",
    ],
)
def test_each_ban_is_noticed(code: str) -> None:
    assert list(findings(ast.parse(code)))
