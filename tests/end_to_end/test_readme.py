"""The README's Python blocks run, on a smaller network than the one they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    use, define = (block.replace("resnet50", "resnet18").replace("224, 224", "64, 64") for block in blocks)
    script = tmp_path / "readme.py"
    check = (
        "text = '''graph g(%x: f32[2]) {\n  %a: f32[2] = relu(%x)\n  %b: f32[2] = relu(%a)\n  return %b\n}\n'''\n"
        "assert RemoveDoubleRelu().run(graphopt.parse(text)).rewritten == 1\n"
        "assert graphopt.load('out/resnet18_ort')(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)\n"
        "print('all ran')\n"
    )
    script.write_text(f"{use}\n{define}\nimport graphopt\n{check}")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fold-batch-norm" in done.stdout
    assert done.stdout.rstrip().endswith("all ran")
