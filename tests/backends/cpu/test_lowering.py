"""Whole graphs through the CPU backend: numbers against float64, plans as text, partitions, sizes, threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import BackendError, RunInputError


class Residual(nn.Module):
    """Convolutions with a residual, pools, a concatenation and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.body = nn.Conv2d(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.side = nn.Conv2d(24, 10, 1)
        self.down = nn.Conv2d(34, 40, 3, stride=2, padding=1, dilation=1)
        self.head = nn.Linear(40, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(self.body(x)) + x)
        x = torch.cat([nn.functional.max_pool2d(x, 3, 1, 1), self.side(x)], 1)
        x = nn.functional.silu(self.down(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """An inverted residual, squeeze-and-excitation and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(16, 40, 1)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.project = nn.Conv2d(40, 16, 1)
        self.wide = nn.Conv2d(16, 48, 1)
        self.filter = nn.Conv2d(48, 48, 5, stride=2, padding=2, groups=48)
        self.squeeze = nn.Conv2d(48, 12, 1)
        self.excite = nn.Conv2d(12, 48, 1)
        self.narrow = nn.Conv2d(48, 20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.project(nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x)))))
        x = nn.functional.hardswish(self.filter(nn.functional.hardswish(self.wide(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(nn.functional.adaptive_avg_pool2d(x, 1)))))
        return self.narrow(x * gate)


class Tokens(nn.Module):
    """Patches, attention over heads that are views, and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 9, 48))
        self.norm = nn.LayerNorm(48)
        self.qkv = nn.Linear(48, 144)
        self.out = nn.Linear(48, 48)
        self.up = nn.Linear(48, 100)
        self.down = nn.Linear(100, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, 3, 16).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def _lower(make: Callable[[], nn.Module], *inputs: torch.Tensor, **options: object) -> CpuExecutable:
    torch.manual_seed(0)
    graph = graphopt.capture(make().eval(), inputs)
    made = graphopt.lower(graph, "cpu", **{"threads": 2, "measure": False, **options})
    assert isinstance(made, CpuExecutable)
    return made


def _error(executable: CpuExecutable, *inputs: torch.Tensor) -> float:
    wanted = Interpreter(executable.graph, precise=True).run(*[x.double() if x.is_floating_point() else x for x in inputs])
    found = executable.run(inputs)
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 19, 23)),
    "mobile": (Mobile, (2, 16, 14, 13)),
    "tokens": (Tokens, (2, 3, 12, 12)),
}


class Halving(nn.Module):
    """3x3 convolutions with 2x2 max pools behind them: of even and odd images, and one that someone else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 33, 3, padding=1)
        self.third = nn.Conv2d(33, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.second(x)), 2)
        y = self.third(x)
        return nn.functional.max_pool2d(y, 2), y


@pytest.mark.parametrize("size", [(28, 30), (26, 27)])
def test_pools_ride_on_winograd_convolutions(size: tuple[int, int]) -> None:
    x = torch.randn(2, 16, *size)
    executable = _lower(Halving, x)
    assert _error(executable, x) < 1e-5  # what a Winograd layer may have
    steps = [line for line in str(executable.plan).splitlines() if "max_pool2d" in line]
    assert [("winograd" in line, "conv 3x3" in line) for line in steps] == [(True, True)] * 2 + [(False, False)], "\n".join(steps)


class FirstPooled(nn.Module):
    """A pool of the input whose reader wants planes, which the pool does not work on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.adaptive_avg_pool2d(x, 1))


def test_a_pool_between_an_input_and_planes() -> None:
    x = torch.randn(1, 3, 28, 28)
    assert _error(_lower(FirstPooled, x), x) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_float64(name: str) -> None:
    make, shape = CASES[name]
    x = torch.randn(shape)
    executable = _lower(make, x)
    assert _error(executable, x) < 2e-6
    assert not [line for line in executable.report if "reference interpreter" in line]


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    make, shape = CASES[name]
    x = torch.randn(shape)
    results = [_lower(make, x, threads=threads).run([x])[0] for threads in (1, 2, 4)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_arrays_in_give_arrays_out() -> None:
    x = torch.randn(2, 16, 14, 13)
    executable = _lower(Mobile, x)
    (array,) = executable.run([x.numpy()])
    assert isinstance(array, numpy.ndarray)
    assert numpy.array_equal(array, executable(x).numpy())


class Odd(nn.Module):
    """Something without a kernel between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.second = nn.Conv2d(16, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.special.bessel_j0(self.first(x)))


def test_what_has_no_kernel_runs_in_the_reference_interpreter() -> None:
    x = torch.randn(1, 3, 9, 9)
    executable = _lower(Odd, x)
    assert _error(executable, x) < 2e-6
    assert [line for line in executable.report if "runs in the reference interpreter: the op has no kernel" in line]


def test_sizes_are_planned_as_they_come() -> None:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=8)
    graph = graphopt.capture(Residual().eval(), (torch.randn(2, 3, 19, 23),), dynamic={"x": {0: batch}})
    executable = graphopt.lower(graph, "cpu", threads=2, measure=False)
    assert isinstance(executable, CpuExecutable)
    for size in (1, 3, 1):
        assert _error(executable, torch.randn(size, 3, 19, 23)) < 2e-6
    assert executable.plan.count("plan Residual for cpu") == 2


def test_wrong_inputs_are_named() -> None:
    x = torch.randn(2, 16, 14, 13)
    executable = _lower(Mobile, x)
    with pytest.raises(RunInputError, match=r"input 0 \(%x\) is f32\[2,16,14,12\], needs f32\[2,16,14,13\]"):
        executable.run([torch.randn(2, 16, 14, 12)])
    with pytest.raises(RunInputError, match=r"input 0 \(%x\) is f64\[2,16,14,13\]"):
        executable.run([x.double()])


def test_options_are_checked() -> None:
    graph = graphopt.capture(nn.ReLU(), (torch.randn(3),))
    with pytest.raises(BackendError, match=r"cpu has no option 'thread'"):
        graphopt.lower(graph, "cpu", thread=2)
    with pytest.raises(BackendError, match=r"isa is 'sse', needs one of native, avx512, avx2, generic"):
        graphopt.lower(graph, "cpu", isa="sse")
    with pytest.raises(BackendError, match="threads is -1"):
        graphopt.lower(graph, "cpu", threads=-1)
