"""Made tones for pitch tracking: a fundamental, decaying harmonics and noise, in frames as CREPE takes them.

CREPE (Kim et al. 2018) reads 1,024 samples at 16 kHz, each frame with mean 0 and deviation 1.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

__all__ = ["BIN_CENTS", "FIRST_CENTS", "cents", "tones"]

_RATE = 16000
_SAMPLES = 1024
BIN_CENTS = 20.0
"""Width of one of CREPE's 360 bins."""
FIRST_CENTS = 1997.3794084376191
"""Where its first bin lies, in cents above 10 Hz."""


def cents(hertz: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Cents above 10 Hz."""
    return 1200.0 * numpy.log2(hertz / 10.0)


def tones(count: int, decibels: float, seed: int) -> tuple[NDArray[numpy.float32], NDArray[numpy.float64]]:
    """Frames (count, 1024) with a signal `decibels` above white noise, and the fundamentals in cents (count,).

    Fundamentals lie between 60 and 900 Hz, evenly in pitch; one to eight harmonics of random strength and phase.
    """
    random = numpy.random.default_rng(seed)
    hertz = numpy.exp(random.uniform(numpy.log(60.0), numpy.log(900.0), count))
    time = numpy.arange(_SAMPLES) / _RATE
    signal = numpy.zeros((count, _SAMPLES))
    harmonics = random.integers(1, 9, count)
    for order in range(1, 9):
        strength = numpy.where(order <= harmonics, random.uniform(0.3, 1.0, count) / order, 0.0)
        phase = random.uniform(0.0, 2.0 * numpy.pi, count)
        signal += strength[:, None] * numpy.sin(2.0 * numpy.pi * order * hertz[:, None] * time + phase[:, None])
    noise = random.standard_normal((count, _SAMPLES))
    level = signal.std(axis=1, keepdims=True) / noise.std(axis=1, keepdims=True) * 10.0 ** (-decibels / 20.0)
    frames = signal + level * noise
    frames = (frames - frames.mean(axis=1, keepdims=True)) / frames.std(axis=1, keepdims=True)
    return frames.astype(numpy.float32), cents(hertz)
