"""Runs written `model.py` files in a process where graphopt can't be imported: `python run_written_source.py FOLDER...`.

Each folder holds model.py, weights.safetensors and cases.safetensors with inputs `i0..` and expected outputs `o0..`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves


def run(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("written", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = load_file(folder / "cases.safetensors")
    # copies: kernels may round differently on the odd addresses that a file gives
    inputs = [cases[f"i{n}"].clone() for n in range(sum(name.startswith("i") for name in cases))]
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = module.load()(*inputs)
    for n, output in enumerate(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)):
        expected = cases[f"o{n}"]
        same = output.dtype == expected.dtype and torch.equal(output.nan_to_num(7.0), expected.nan_to_num(7.0))
        assert same, f"{folder.name}: output {n} is {output}, needs {expected}"


def main() -> None:
    sys.modules["graphopt"] = None  # pyright: ignore[reportArgumentType]  # makes every import of it fail
    for name in sys.argv[1:]:
        run(Path(name))
    print(f"{len(sys.argv) - 1} agree")


if __name__ == "__main__":
    main()
