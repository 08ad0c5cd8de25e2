"""The repository's own promises: what is packaged, what stands at the top, what belongs together."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_packaged() -> None:
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "graphopt").rglob("__init__.py")}
    found |= {"graphopt." + ".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "passes").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found


def test_top_level_is_what_the_readme_says() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        names = {p.name for p in ROOT.iterdir()} - {"build", "dist", "out", "graphopt.egg-info"}
    else:
        names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    visible = {name for name in names if not name.startswith(".")}
    wanted = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
    assert visible == wanted | {"docs", "graphopt", "passes", "pyproject.toml", "tests", "tools"}


def test_every_pass_has_a_test_and_an_entry_point() -> None:
    entries: dict[str, str] = PYPROJECT["project"]["entry-points"]["graphopt.passes"]
    modules = {value.partition(":")[0].rpartition(".")[2] for value in entries.values()}
    for stem in sorted(modules - {"pipelines"}):
        assert (ROOT / "tests" / "passes" / f"test_{stem}.py").is_file(), f"tests/passes/test_{stem}.py is missing"


def test_every_entry_point_is_a_pass_or_a_preset_of_that_name() -> None:
    from graphopt.pipeline.registry import available, find

    assert set(PYPROJECT["project"]["entry-points"]["graphopt.passes"]) <= set(available()), "reinstall: pip install -e ."
    for name in PYPROJECT["project"]["entry-points"]["graphopt.passes"]:
        entry = find(name)
        if not isinstance(entry, tuple):
            assert entry.name == name
            assert entry.__doc__, f"{name} needs a docstring"


def test_passes_can_not_be_imported_under_a_second_name() -> None:
    result = subprocess.run([sys.executable, "-c", "import passes"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "import this package as graphopt.passes" in result.stderr


def test_importing_graphopt_loads_no_torch() -> None:
    code = "import sys, graphopt, graphopt.ir, graphopt.ops, graphopt.analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tools_and_docs_name_files_that_exist() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        for target in (part.split(")")[0].split("#")[0] for part in text.split("](")[1:]):
            if target and not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
