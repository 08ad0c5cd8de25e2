"""Library calls of emitted programs: torch functions that end in cuDNN, cuBLASLt and flash attention on a GPU.

Each returns a tensor that torch allocates. On CPU tensors, in tests, the same functions run torch's CPU kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from graphopt.backends.cuda.semi_structured import unpack

__all__ = ["attention", "convolution", "convolution_relu", "copy", "linear", "linear_2_4", "matmul", "transposed_convolution"]

Sizes = tuple[int, ...]


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> torch.Tensor:
    """x [N, C, ...] * weight [K, C / groups, ...] -> [N, K, ...], of one to three spatial axes."""
    none = (0,) * len(stride)
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, none, groups)


def convolution_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """relu(convolution + residual) in one cuDNN call on a GPU (cudnnConvolutionBiasActivationForward)."""
    if not x.is_cuda:
        made = convolution(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return torch.relu(made if residual is None else made + residual)
    if residual is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
    return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, stride, padding, dilation, groups)


def transposed_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """x [N, C, ...] * weight [C, K / groups, ...] -> [N, K, ...]."""
    return torch.convolution(x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [..., C] * weight [K, C] + bias [K] -> [..., K]."""
    return functional.linear(x, weight, bias)


def linear_2_4(x: torch.Tensor, values: torch.Tensor, metadata: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [..., C] * weight [K, C] + bias [K] -> [..., K], of a weight as `semi_structured.pack` leaves it, on sparse tensor cores.

    On a CPU the weight is unpacked and multiplied as it was.
    """
    if not x.is_cuda:
        return functional.linear(x, unpack(values, metadata), bias)
    rows = x.reshape(-1, x.shape[-1])
    if not len(rows):
        return x.new_empty((*x.shape[:-1], len(values)))
    # the kernels take multiples of 8 rows of x
    columns = (functional.pad(rows, (0, 0, 0, -len(rows) % 8)) if len(rows) % 8 else rows.contiguous()).t()
    if bias is None:
        made = torch._sparse_semi_structured_mm(values, metadata, columns)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    else:
        made = torch._sparse_semi_structured_addmm(bias, values, metadata, columns)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return made.t()[: len(rows)].reshape(*x.shape[:-1], len(values)).contiguous()


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[..., M, K] @ [..., K, N] -> [..., M, N], as `torch.matmul` broadcasts."""
    return torch.matmul(a, b)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, causal: bool, scale: float | None, grouped: bool
) -> torch.Tensor:
    """softmax(q k^T scale + mask) v, by flash or memory-efficient attention where torch finds that they fit."""
    return functional.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=grouped)


def copy(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in memory of their own, for dtypes that emitted kernels lack."""
    return x.clone()
