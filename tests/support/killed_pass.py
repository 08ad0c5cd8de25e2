"""A small network and data, and a run of a pass over them in which the process may kill itself."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt

__all__ = ["bits", "data", "files", "graph", "kill", "model", "one_thread", "run"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads have other bits, and a process that was forked has no threads. Files that import it have it for all tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(seed: int = 0) -> nn.Sequential:
    """Five layers between the first and the last one, which stay dense."""
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 1, bias=False), nn.Flatten()]
    for _ in range(3):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    found = nn.Sequential(*layers, nn.Linear(32, 4)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return found


_DIFFERENTIATING = ("taylor", "hessian")
"""Methods with gradients, which torch does not compute in a process that was forked from one that has computed some."""


class Residual(nn.Module):
    """Three blocks with a path around each; padding, so that kernels can shrink, and batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
            for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classes of images."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def residual(seed: int = 0) -> nn.Module:
    """Such a network with random weights."""
    generator = torch.Generator().manual_seed(seed)
    found = Residual().eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return found


def data(seed: int = 0) -> list[torch.Tensor]:
    """Batches of correlated images."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 3, 6, 6, generator=generator).cumsum(2) for _ in range(3)]


@functools.cache
def graph(seed: int = 0, *, blocks: bool = False) -> graphopt.Graph:
    """The network, or the one with residual blocks, as a graph for any number of images."""
    made, name = (residual(seed), "x") if blocks else (model(seed), "input")
    return graphopt.capture(made, (data()[0][:2],), dynamic={name: {0: "batch"}})


def run(pass_: str, folder: Path | None, *, kill_at: str = "", seed: int = 0, data_seed: int = 0, blocks: bool = False) -> graphopt.Result:
    """Run a pass; the process kills itself when progress says `kill_at`."""

    def progress(what: str, _: float) -> None:
        if kill_at and kill_at in what:
            os.kill(os.getpid(), signal.SIGKILL)

    return graphopt.optimize(
        graph(seed, blocks=blocks),
        [pass_],
        check="off",
        calibration=data(data_seed),
        checkpoint=folder,
        progress=progress,
    )


def _run_alone(pass_: str, folder: Path, kill_at: str, blocks: bool) -> None:
    torch.set_num_threads(1)  # as in the tests
    run(pass_, folder, kill_at=kill_at, blocks=blocks)


def kill(pass_: str, folder: Path, kill_at: str, *, blocks: bool = False) -> None:
    """Run a pass in a process of its own, which is killed (-9) when progress says `kill_at`."""
    differentiates = any(name in pass_ for name in _DIFFERENTIATING)
    context = multiprocessing.get_context("spawn") if differentiates else multiprocessing.get_context("fork")
    killed = context.Process(target=_run_alone, args=(pass_, folder, kill_at, blocks))
    killed.start()
    killed.join(250)
    assert killed.exitcode == -signal.SIGKILL, f"{pass_} was not killed at '{kill_at}'"


def bits(result: graphopt.Result) -> dict[str, tuple[str, bytes]]:
    """Types and numbers of all states."""
    found: dict[str, tuple[str, bytes]] = {}
    for name, state in result.graph.states.items():
        assert state.data is not None
        found[name] = (state.type.text, state.data.tensor().detach().numpy().tobytes())
    return found


def files(folder: Path) -> dict[str, int]:
    """Files by name, with the time of their last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.glob("*/*"))}
