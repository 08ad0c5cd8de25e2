"""Colour photographs that come with scikit-image, scikit-learn and foolbox, as uint8 arrays (height, width, 3)."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from tools.bench_quality.packages import folder_of

__all__ = ["Photo", "crops", "photographs", "small_pictures"]

Photo = NDArray[numpy.uint8]

_SKIMAGE = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg")
_SKIMAGE_LAST = ("motorcycle_left.png",)
_SKLEARN = ("china.jpg", "flower.jpg")


def _read(file: Any) -> Photo:
    with Image.open(file) as image:
        return numpy.asarray(image.convert("RGB"))


def photographs() -> list[Photo]:
    """The photographs that are installed, always in the same order; each side has 97 pixels at least.

    Raises:
        MissingDataError: scikit-image or scikit-learn is not installed.
    """
    first, second = folder_of("skimage") / "data", folder_of("sklearn") / "datasets" / "images"
    files = [first / name for name in (*_SKIMAGE, *_SKIMAGE_LAST)] + [second / name for name in _SKLEARN]
    return [_read(file) for file in files if file.exists()]


def small_pictures() -> list[Photo]:
    """foolbox's twenty ImageNet pictures, in the order of their file names.

    Raises:
        MissingDataError: foolbox is not installed.
    """
    return [_read(file) for file in sorted((folder_of("foolbox") / "data").glob("imagenet_*"))]


def crops(photos: list[Photo], count: int, side: int, seed: int) -> NDArray[numpy.uint8]:
    """Random squares, some mirrored, at random scales: (count, 3, side, side).

    A square covers a fifth to all of the shorter side in each direction, never fewer than `side` / 2 pixels.
    """
    random = numpy.random.default_rng(seed)
    made = numpy.empty((count, 3, side, side), numpy.uint8)
    for index in range(count):
        photo = photos[int(random.integers(len(photos)))]
        short = min(photo.shape[:2])
        size = int(random.uniform(min(short, max(side / 2, 0.2 * short)), short + 1))
        top, left = int(random.integers(photo.shape[0] - size + 1)), int(random.integers(photo.shape[1] - size + 1))
        patch = Image.fromarray(photo[top : top + size, left : left + size]).resize((side, side), Image.Resampling.BILINEAR)
        pixels = numpy.asarray(patch)
        made[index] = (pixels[:, ::-1] if random.random() < 0.5 else pixels).transpose(2, 0, 1)
    return made
