"""Group and instance norms with what rides on them, in Triton's interpreter: one emitted kernel, and the model's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.cuda.executable import CudaExecutable
from tests.backends.cuda.running import expect_close


class Normed(nn.Module):
    """A norm of images, an activation, a residual that is broadcast along one axis; images lie with channels last behind a convolution."""

    def __init__(self, norm: nn.Module, *, convolution: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(12, 12, 3, padding=1) if convolution else nn.Identity()
        self.norm = norm
        for parameter in norm.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """silu(norm) + residual."""
        return nn.functional.silu(self.norm(self.convolution(x))) + residual


NORMS = {
    "groups of 3": lambda: nn.GroupNorm(4, 12),
    "one group": lambda: nn.GroupNorm(1, 12),
    "groups without affine": lambda: nn.GroupNorm(3, 12, affine=False),
    "instance norm": lambda: nn.InstanceNorm2d(12, affine=True),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float16", 4e-3)])
@pytest.mark.parametrize("convolution", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_with_an_epilogue_is_one_kernel(norm: str, convolution: bool, dtype: str, tolerance: float) -> None:
    torch.manual_seed(0)
    model = Normed(NORMS[norm](), convolution=convolution).eval()
    given = (torch.randn(2, 12, 5, 7) + 0.5, torch.randn(2, 12, 1, 7))
    executable = graphopt.lower(graphopt.capture(model, given), "cuda", device="cpu", dtype=dtype)
    assert isinstance(executable, CudaExecutable)
    plan = executable.programs[()].plan
    assert plan is not None
    assert plan.steps[-1].work.algorithm == "normalize"
    assert plan.steps[-1].work.describe().endswith("+ silu + add")
    with torch.no_grad():
        want = model.double()(*(tensor.double() for tensor in given)).float()
    expect_close(executable.run(given), [want], tolerance)


def test_a_chain_across_a_view() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 6)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(x).flatten(2) * scale)

    torch.manual_seed(0)
    model, given = Tokens().eval(), (torch.randn(2, 6, 4, 5), torch.randn(20))
    executable = graphopt.lower(graphopt.capture(model, given), "cuda", device="cpu")
    assert isinstance(executable, CudaExecutable)
    assert executable.programs[()].foreign == ()
    with torch.no_grad():
        expect_close(executable.run(given), [model(*given)], 2e-6)
