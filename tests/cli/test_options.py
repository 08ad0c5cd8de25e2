"""Options that several verbs share."""

from __future__ import annotations

import pytest
import torch

from graphopt.cli.options import thread_options


@pytest.mark.parametrize("target", ["onnxruntime", "cpu"])
def test_backends_with_threads_of_their_own_are_told(target: str) -> None:
    assert thread_options(3, target) == {"threads": 3}
    assert thread_options(0, target) == {}


@pytest.mark.parametrize("target", ["torch", "reference"])
def test_the_others_use_those_of_torch(target: str) -> None:
    before = torch.get_num_threads()
    try:
        assert thread_options(before + 1, target) == {}
        assert torch.get_num_threads() == before + 1
        assert thread_options(0, target) == {}
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
