"""A pass that works layer by layer on a model in a folder stays within twice the memory that its weights take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.measure_memory import measure


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_sparsify_obs_stays_within_twice_the_weights(tmp_path: Path) -> None:
    found = measure(tmp_path, layers=160, width=256, pass_="sparsify-obs{ratio=0.5, refine=2}")
    assert found["weights"] > 160 * 256 * 256 * 4
    assert found["peak"] - found["before"] < 2 * found["weights"]
