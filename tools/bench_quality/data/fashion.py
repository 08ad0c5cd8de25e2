"""Fashion-MNIST (Xiao et al. 2017) and Fashion-M, the same pictures laid over patches of colour photographs.

Fashion-M is made as MNIST-M was (Ganin and Lempitsky 2015): |photograph - picture| per channel. 60,000 pictures to
train on, 10,000 to test; the last 5,000 of the former are kept for validation. Same seed, same pictures.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy
from numpy.typing import NDArray

from tools.bench_quality.data.photos import Photo, photographs
from tools.bench_quality.packages import MissingDataError

if TYPE_CHECKING:
    import torch

__all__ = ["Images", "fashion_m", "fashion_mnist", "overlay"]

_INSTALLED = Path("/usr/share/datasets/fashion-mnist")
_HOW = (
    "apt-get install dataset-fashion-mnist (Debian, Ubuntu), or put the four *-ubyte.gz files of "
    "github.com/zalandoresearch/fashion-mnist there"
)
_VALIDATION = 5000
_TEST_SEED = 1000003
Pixels: TypeAlias = NDArray[numpy.uint8]
Labels: TypeAlias = NDArray[numpy.int64]


@dataclass(frozen=True)
class Images:
    """Pictures (n, channels, height, width) in uint8, and labels 0 to 9 (n,)."""

    pixels: Pixels
    labels: Labels

    def batch(self, rows: NDArray[numpy.int64] | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of them as float32, mean about 0 and deviation about 1, with their labels."""
        import torch

        pixels = torch.from_numpy(numpy.ascontiguousarray(self.pixels[rows])).float().sub_(96.0).div_(80.0)
        return pixels, torch.from_numpy(self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def _read(where: Path, name: str, offset: int, *shape: int) -> Pixels:
    folders = (_INSTALLED, where / "fashion-mnist")
    for folder in folders:
        if (folder / name).exists():
            with gzip.open(folder / name) as stream:
                return numpy.frombuffer(stream.read(), numpy.uint8, offset=offset).reshape(-1, *shape)
    raise MissingDataError(f"Fashion-MNIST's {name} is not in {' or '.join(map(str, folders))}: {_HOW}")


def overlay(pictures: Pixels, photos: list[Photo], seed: int) -> Pixels:
    """Lay pictures (n, 28, 28) over random patches of photographs, at random places: (n, 3, 32, 32)."""
    random = numpy.random.default_rng(seed)
    made = numpy.empty((len(pictures), 32, 32, 3), numpy.uint8)
    chosen = random.integers(len(photos), size=len(pictures))
    for index, picture in enumerate(pictures):
        photo = photos[chosen[index]]
        step = int(random.integers(1, 4))
        side = 32 * step
        top, left = int(random.integers(photo.shape[0] - side)), int(random.integers(photo.shape[1] - side))
        patch = photo[top : top + side : step, left : left + side : step].astype(numpy.int16)
        front = numpy.zeros((32, 32), numpy.int16)
        down, across = random.integers(0, 5, 2)
        front[down : down + 28, across : across + 28] = picture
        made[index] = numpy.abs(patch - front[..., None])
    return numpy.ascontiguousarray(made.transpose(0, 3, 1, 2))


def _split(pixels: Pixels, labels: Labels, test: Images) -> dict[str, Images]:
    train = Images(pixels[:-_VALIDATION], labels[:-_VALIDATION])
    return {"train": train, "validation": Images(pixels[-_VALIDATION:], labels[-_VALIDATION:]), "test": test}


def _original(folder: Path) -> tuple[Pixels, Labels, Pixels, Labels]:
    return (
        _read(folder, "train-images-idx3-ubyte.gz", 16, 28, 28),
        _read(folder, "train-labels-idx1-ubyte.gz", 8).astype(numpy.int64),
        _read(folder, "t10k-images-idx3-ubyte.gz", 16, 28, 28),
        _read(folder, "t10k-labels-idx1-ubyte.gz", 8).astype(numpy.int64),
    )


def fashion_mnist(folder: Path) -> dict[str, Images]:
    """Splits train, validation and test of (1, 28, 28) pictures, from Debian's package or `folder`/fashion-mnist.

    Raises:
        MissingDataError: the files are not there.
    """
    pixels, labels, test, expected = _original(folder)
    return _split(pixels[:, None], labels, Images(test[:, None], expected))


def fashion_m(folder: Path) -> dict[str, Images]:
    """Splits train, validation and test of (3, 32, 32) pictures, made of those of `fashion_mnist`.

    Raises:
        MissingDataError: the files, or the photographs' packages, are not there.
    """
    pixels, labels, test, expected = _original(folder)
    photos = photographs()
    return _split(overlay(pixels, photos, 0), labels, Images(overlay(test, photos, _TEST_SEED), expected))
