"""Torch's settings while a program runs for the first time: what they are then, and that they are afterwards what they were."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import deterministic

from graphopt.backends.cuda.device import settings

_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_PLACES = [
    ("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "all"), ("mkldnn", "matmul"),
]  # fmt: skip
_BACKENDS: Any = torch.backends
_MEMORY: Any = deterministic
_OLD = (torch.get_float32_matmul_precision, lambda: _BACKENDS.cuda.matmul.allow_tf32, lambda: _BACKENDS.cudnn.allow_tf32)
_get: Callable[[str, str], str] = _C._get_fp32_precision_getter
_set: Callable[[str, str, str], None] = _C._set_fp32_precision_setter


def shown(read: Callable[[], object]) -> object:
    """What a setting says; the old ones raise where only a new one was set."""
    try:
        return read()
    except RuntimeError:
        return "raises"


def precisions() -> list[object]:
    """All that tells how float32 is multiplied, now and once the setting above all others changes."""
    found: list[object] = [shown(read) for read in _OLD]
    above = _get("generic", "all")
    for word in (above, "none", "ieee", "tf32"):
        _set("generic", "all", word)
        found += [_get(*place) for place in _PLACES[1:]]
    _set("generic", "all", above)
    return found


def products() -> list[str]:
    """What libraries read: of matrix products, of convolutions, of recurrent layers."""
    return [_get(*place) for place in _PLACES[2:5]]


def others() -> list[object]:
    """The settings besides."""
    cudnn = _BACKENDS.cudnn
    return [
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), _MEMORY.fill_uninitialized_memory, torch.is_grad_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    for place in _PLACES:
        _set(*place, "none")
    torch.set_float32_matmul_precision("highest")
    _BACKENDS.cudnn.allow_tf32 = True


def test_what_is_set_and_that_it_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = others()
    with settings(tf32=False):
        assert others() == [True, False, True, True, True, False, False, ":4096:8"]
    assert others() == before
    with settings(tf32=False, autotune=True):
        assert _BACKENDS.cudnn.benchmark
    assert others() == before


def test_a_workspace_of_the_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with settings(tf32=False):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_workspace_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with settings(tf32=False):
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [False, True])
def test_the_old_setting_of_products_is_kept(precision: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    before = precisions()
    with settings(tf32=tf32):
        assert products() == ["tf32" if tf32 else "ieee"] * 3
    assert precisions() == before
    assert torch.get_float32_matmul_precision() == precision


def test_new_settings_mix_with_old_ones() -> None:
    _BACKENDS.cuda.matmul.fp32_precision = "tf32"  # the old getter raises from here on
    _BACKENDS.fp32_precision = "tf32"
    _BACKENDS.cudnn.conv.fp32_precision = "none"
    before = precisions()
    assert "raises" in before
    with settings(tf32=False):
        assert products() == ["ieee", "ieee", "ieee"]
    assert precisions() == before
    _BACKENDS.fp32_precision = "ieee"
    assert _BACKENDS.cudnn.conv.fp32_precision == "ieee", "what followed the setting above it still does"


def test_whatever_was_set_is_what_is_set_afterwards() -> None:
    draw = random.Random(0)
    words = ["none", "ieee", "tf32"]
    changes: list[Callable[[], object]] = [
        lambda: torch.set_float32_matmul_precision(draw.choice(["highest", "high", "medium"])),
        lambda: setattr(_BACKENDS.cuda.matmul, "allow_tf32", draw.random() < 0.5),
        lambda: setattr(_BACKENDS.cudnn, "allow_tf32", draw.random() < 0.5),
        *(lambda place=place: _set(*place, draw.choice(words)) for place in _PLACES),
    ]
    for _ in range(300):
        draw.choice(changes)()
        before, tf32 = precisions(), draw.random() < 0.5
        with settings(tf32=tf32):
            assert products() == ["tf32" if tf32 else "ieee"] * 3
        assert precisions() == before


def test_a_fresh_process_is_as_it_was() -> None:
    """What torch begins with can't be set by any setter of torch 2.14."""
    script = """
from tests.backends.cuda.test_device import precisions, products, settings
before = precisions()
assert "raises" not in before
for tf32 in (False, True):
    with settings(tf32=tf32):
        assert products() == ["tf32" if tf32 else "ieee"] * 3
    assert precisions() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_one_thread_at_a_time_has_the_settings() -> None:
    log: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        with settings(tf32=True):
            log.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with settings(tf32=False):
        inside.set()
        leave.wait(0.2)
        with settings(tf32=False):  # the same thread may have them twice
            log.append("this")
    thread.join()
    assert log == ["this", "other"]
