"""How weights of convolutions lie while `recover` trains, and that nobody can tell afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.train import SparseAdamW, SparseSGD, masks_of, recover
from graphopt.train.recovery import recover as recovery
from graphopt.train.recovery.checkpoint import read
from tests.support.recovering import bits

NAMED = list[tuple[str, nn.Parameter]]


def network(seed: int, groups: int = 8) -> nn.Sequential:
    """A block with a depthwise convolution, and a 4-D output."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.Conv2d(8, 4, 1)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        module.get_parameter("0.weight")[:, :, ::2] = 0.0
    return module


def batches(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 6, 6, generator=generator, dtype=dtype) for _ in range(6)]


def capture(module: nn.Module) -> graphopt.Graph:
    parameter = next(module.parameters())
    return graphopt.capture(module, (batches(parameter.dtype)[0],), dynamic={"input": {0: "batch"}})


def strides(module: nn.Module) -> list[tuple[int, ...]]:
    return [parameter.stride() for parameter in module.parameters()]


def watched(make: Callable[[NAMED], torch.optim.Optimizer], seen: list[bool]) -> Callable[[NAMED], torch.optim.Optimizer]:
    """An optimizer that notes after each step whether a weight, its gradient and what is remembered of it lie channels last."""

    def optimizer(named: NAMED) -> torch.optim.Optimizer:
        made, weight = make(named), dict(named)["0.weight"]

        def look(*_: object) -> None:
            tensors = [weight, weight.grad, *made.state[weight].values()]
            four = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.dim() == 4]
            last = {tensor.is_contiguous(memory_format=torch.channels_last) for tensor in four}
            assert len(last) == 1, "all of them lie alike"
            seen.append(last.pop())

        made.register_step_post_hook(look)
        return made

    return optimizer


def sgd(named: NAMED) -> torch.optim.Optimizer:
    return torch.optim.SGD(named, lr=0.05, momentum=0.9)


def adamw(named: NAMED) -> torch.optim.Optimizer:
    return SparseAdamW(named, lr=0.01)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_depthwise_networks_are_trained_channels_last(make: Callable[[NAMED], torch.optim.Optimizer]) -> None:
    student, teacher, seen, shown = capture(network(0)), capture(network(1)), list[bool](), list[list[tuple[int, ...]]]()

    def metric(module: nn.Module) -> float:
        shown.append(strides(module))
        return -float(module(batches()[0]).view(-1).square().mean().detach())

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (outputs.view(-1) - target.view(-1)).square().mean()  # as the caller's own code may have it

    labelled = [(x, x.new_ones(4, 4, 6, 6)) for x in batches()]
    options: dict[str, Any] = {"teacher": teacher, "loss": loss, "metric": metric, "distillation": "mse", "epochs": 2, "accelerate": False}
    found = recover(student, labelled, optimizer=watched(make, seen), **options)
    assert seen == [True] * 12
    plain = recover(student, labelled, optimizer=watched(make, seen), memory_format="contiguous", **options)
    assert seen[12:] == [False] * 12
    expected = strides(student.to_module())
    assert found.graph is not None
    assert shown == [expected] * len(shown)
    assert strides(found.module) == strides(found.graph.to_module()) == expected
    assert bits(found.graph.to_module()) == bits(found.module)
    assert torch.equal(masks_of(found.module)["0.weight"], masks_of(student)["0.weight"])
    for name, tensor in plain.module.state_dict().items():
        torch.testing.assert_close(found.module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_other_networks_and_optimizers_are_left_alone() -> None:
    """Dense ones, float64 (slower channels last), modules whose code may know of strides, optimizers that may."""

    def other(named: NAMED) -> torch.optim.Optimizer:
        class Other(torch.optim.Optimizer):
            def step(self, closure: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch overloads it
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.data.view(parameter.shape[0], -1).mul_(0.9)  # as optimizers of matrices do
                return 0.0

        return Other([parameter for _, parameter in named], {"lr": 0.1})

    seen = list[bool]()
    for module, x in ((network(0, groups=1), batches()), (network(0).double(), batches(torch.float64))):
        recover(capture(module), x, teacher=capture(module), optimizer=watched(sgd, seen), steps=2, accelerate=False)
    recover(network(0), batches(), teacher=network(1), optimizer=watched(sgd, seen), steps=2, accelerate=False)
    assert seen == [False] * 6
    recover(capture(network(0)), batches(), teacher=network(1), optimizer=other, steps=2, accelerate=False)


class Flat(torch.optim.SGD):
    """Looks at gradients as matrices, as optimizers that orthogonalise them do."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch overloads it
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad.view(parameter.shape[0], -1).mul_(0.5)
        super().step()


def test_optimizers_made_of_torchs_ones_are_left_alone_too() -> None:
    recover(
        capture(network(0)),
        batches(),
        teacher=capture(network(1)),
        optimizer=lambda named: Flat([parameter for _, parameter in named], lr=0.01),
        steps=2,
        accelerate=False,
    )


class Viewed(nn.Module):
    """A teacher whose code depends on how tensors lie."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.body(x)
        return found.view(len(x), -1).view(found.shape)


@pytest.mark.parametrize("memory_format", ["auto", "channels_last"])
def test_a_teacher_that_is_a_module_stays_as_it_lies(memory_format: Literal["auto", "channels_last"]) -> None:
    seen, teacher = list[bool](), Viewed().eval()
    options: dict[str, Any] = {"steps": 2, "accelerate": False, "memory_format": memory_format}
    recover(capture(network(0)), batches(), teacher=teacher, optimizer=watched(sgd, seen), **options)
    assert seen == [True] * 2


@pytest.mark.parametrize("memory_format", ["auto", "contiguous"])
def test_the_numbers_of_a_teacher_are_never_written_to(memory_format: Literal["auto", "contiguous"], tmp_path: Path) -> None:
    """They may be mapped from a file for reading: a write ends the process."""
    teacher = network(1)
    numpy.save(tmp_path / "weight.npy", teacher.get_parameter("3.weight").detach().numpy())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        mapped = torch.from_numpy(numpy.load(tmp_path / "weight.npy", mmap_mode="r"))
    teacher.get_submodule("3").register_parameter("weight", nn.Parameter(mapped))
    graph = capture(teacher)
    data = graph.states["3.weight"].data
    assert data is not None
    assert data.tensor().data_ptr() == mapped.data_ptr()
    recover(capture(network(0)), batches(), teacher=graph, steps=2, memory_format=memory_format, accelerate=False)
    assert data.tensor().data_ptr() == mapped.data_ptr()


def test_a_module_is_trained_channels_last_on_request_and_lies_as_before() -> None:
    module = network(0).requires_grad_(True)
    parameters = {id(parameter): parameter for parameter in module.parameters()}
    seen = list[bool]()
    options: dict[str, Any] = {"teacher": network(1), "distillation": "mse", "steps": 3, "accelerate": False}
    found = recover(module, batches(), optimizer=watched(sgd, seen), memory_format="channels_last", **options)
    assert strides(found.module) == strides(module)
    module.to(memory_format=torch.channels_last)
    before = strides(module)
    other = recover(module, batches(), optimizer=watched(sgd, seen), memory_format="contiguous", **options)
    assert seen == [True] * 3 + [False] * 3
    assert strides(other.module) == strides(module) == before != strides(found.module)
    assert {id(parameter) for parameter in module.parameters()} == set(parameters)
    with pytest.raises(UsageError, match="memory_format is 'nhwc', needs 'auto', 'contiguous' or 'channels_last'"):
        recover(module, batches(), memory_format="nhwc", **options)  # pyright: ignore[reportArgumentType]


class Killed(BaseException):
    pass


class Fragile(list[Any]):
    """Data that ends with the process, at the fourth batch."""

    def __iter__(self) -> Iterator[Any]:
        for index, item in enumerate(super().__iter__()):
            if index == 3:
                raise Killed
            yield item


@pytest.mark.parametrize("auto", [True, False])
def test_a_run_ends_with_the_layout_that_it_began_with(auto: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` False: a checkpoint of before there was a choice."""
    student, teacher, seen = capture(network(0)), capture(network(1)), list[bool]()

    def optimizer(named: NAMED) -> torch.optim.Optimizer:
        return watched(lambda given: SparseSGD(given, lr=0.05, momentum=0.9), seen)(named)

    options: dict[str, Any] = {"teacher": teacher, "epochs": 2, "checkpoint_every": 1, "accelerate": False, "optimizer": optimizer}
    file = tmp_path / "layout.safetensors"
    with monkeypatch.context() as patch:
        if not auto:
            patch.setattr(recovery, "chosen_layout", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
        whole = recover(student, batches(), **options)
        with pytest.raises(Killed):
            recover(student, Fragile(batches()), checkpoint=file, **options)
    assert read(file)[2]["layout"] == ("channels_last" if auto else None)
    for other in ("contiguous", "channels_last"):
        with pytest.raises(UsageError, match=f"layout.safetensors is that of another run: memory_format was left out, is '{other}'"):
            recover(student, batches(), checkpoint=file, memory_format=other, **options)
    resumed = recover(student, batches(), checkpoint=file, **options)
    assert resumed.resumed_at == 3
    assert bits(resumed.module) == bits(whole.module)
    assert seen == [auto] * 24
