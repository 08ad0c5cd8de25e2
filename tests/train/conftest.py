"""The student and the teacher of most tests of `recover`."""

from __future__ import annotations

import pytest

import graphopt
from tests.support.recovering import capture, network, sparse


@pytest.fixture(scope="module")
def student() -> graphopt.Graph:
    return capture(sparse())


@pytest.fixture(scope="module")
def teacher() -> graphopt.Graph:
    return capture(network())
