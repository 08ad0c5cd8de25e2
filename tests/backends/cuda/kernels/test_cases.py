"""Every kernel family in Triton's interpreter against the reference backend: the matrix of `tools.check_cuda`, a part of it in each run.

The whole matrix takes minutes in the interpreter: `python -m tools.check_cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from tools.check_cuda.case import Case
from tools.check_cuda.cases import GROUPS
from tools.check_cuda.interpret import judge

_STEPS = {"elementwise": 11, "rows": 9, "images": 7, "indexed": 5, "products": 5}
"""One case of so many is run."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _cases(group: str) -> Iterator[Case]:
    return islice(GROUPS[group](), 0, None, _STEPS[group])


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_kernels_agree_with_the_reference_backend(group: str) -> None:
    failures = {f"{case.family} {case.name}": failure for case in _cases(group) if (failure := judge(case)[1])}
    assert not failures


def test_a_wrong_kernel_is_found() -> None:
    case = next(GROUPS["indexed"]())
    wrong = Case(case.family, case.name, case.kernel, case.tensors, case.want + 1)
    assert judge(wrong)[1].startswith("off by")
