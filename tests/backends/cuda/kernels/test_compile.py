"""Emitted kernels compile to machine code for sm_80 and sm_90 on a machine without a GPU, and fit one."""

from __future__ import annotations

from tools.check_cuda.compiling import compile_elsewhere

_NAMES = (
    "residual + relu f16",
    "BERT attention f16",
    "layer_norm BERT f32",
    "ResNet stem NHWC f16",
    "3x3 NHWC f16",
    "BERT MLP f16",
    "BERT MLP 32x32 80% f16",
)


def test_typical_kernels_compile_for_two_architectures_and_fit() -> None:
    compiled = list(compile_elsewhere("typical", names=_NAMES))
    assert not [entry for entry in compiled if entry.failure]
    assert {(entry.name, entry.architecture) for entry in compiled} == {(name, each) for name in _NAMES for each in (80, 90)}
    for entry in compiled:
        assert entry.resources is not None
        assert 0 < entry.resources.registers <= 255
        assert entry.resources.spills == 0
        assert entry.resources.shared <= 163 * 1024
