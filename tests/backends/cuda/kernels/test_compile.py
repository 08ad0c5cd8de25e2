"""Emitted kernels compile to machine code for sm_80 and sm_90 on a machine without a GPU, and fit one."""

from __future__ import annotations

from tools.check_cuda.cases import all_cases
from tools.check_cuda.compiling import compile_elsewhere
from tools.check_cuda.typical import typical_kernels

_NAMES = (
    "residual + relu f16",
    "mean of pixels NHWC f16",
    "scaled and masked attention f16",
    "group_norm NHWC + silu f16",
    "ResNet stem NHWC f16",
    "3x3 NHWC f16",
    "BERT embedding f32",
    "along tokens f16",
    "border of 1 f32",
    "DenseNet f16",
    "gated MLP f16",
    "BERT MLP 32x32 80% f16",
)
"""One kernel of each family, those with most to them: epilogues, and chains in front."""


def test_each_family_has_a_typical_kernel_that_is_compiled() -> None:
    typical = list(typical_kernels())
    assert {family for family, name, _ in typical if name in _NAMES} == {family for family, _, _ in typical}
    assert {family for family, _, _ in typical} == {case.family for case in all_cases()}


def test_typical_kernels_compile_for_two_architectures_and_fit() -> None:
    compiled = list(compile_elsewhere("typical", names=_NAMES))
    assert not [entry for entry in compiled if entry.failure]
    assert {(entry.name, entry.architecture) for entry in compiled} == {(name, each) for name in _NAMES for each in (80, 90)}
    for entry in compiled:
        assert entry.resources is not None
        assert 0 < entry.resources.registers <= 255
        assert entry.resources.spills == 0
        assert entry.resources.shared <= 163 * 1024
