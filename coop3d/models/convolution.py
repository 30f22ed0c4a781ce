"""Convolution whose gradients a CPU computes fast where channels lie last in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coop3d.models.processor import has_avx512, runs_plainly

# Rows of an image and of its gradient that are worked on at a time: small enough for a core's cache.
BLOCK_BYTES = 4_000_000


class Window(NamedTuple):
    """How a kernel moves over an image, (rows, columns) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    """`torch.nn.functional.conv2d`; where channels lie last, with a fast gradient of the weights.

    In this layout oneDNN's forward pass and its gradient of the image are the faster ones, but without AVX-512 its
    gradient of the weights runs at a quarter of the speed of matrix products (benchmarks/bench_convolution.py).
    """
    if _has_slow_weight_gradient(x, weight, window):
        out: Tensor = _ProductsForWeights.apply(x, weight, bias, window)
        return out
    return F.conv2d(x, weight, bias, *window)


def _has_slow_weight_gradient(x: Tensor, weight: Tensor, window: Window) -> bool:
    return (
        runs_plainly(x, weight)
        and torch.is_grad_enabled()
        and weight.requires_grad
        and window.stride == (1, 1)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and not has_avx512()
    )


class _ProductsForWeights(torch.autograd.Function):
    """`F.conv2d` of stride 1 with the gradient of its weights by `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.window = window
        return F.conv2d(x, weight, bias, *window)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        others = (*ctx.window, False, (0, 0), 1, (of_x, False, False))
        return (
            torch.ops.aten.convolution_backward(gradient, x, weight, None, *others)[0] if of_x else None,
            weight_gradient(gradient, x, weight.shape[2:], ctx.window) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def weight_gradient(gradient: Tensor, x: Tensor, kernel: tuple[int, int], window: Window) -> Tensor:
    """Gradient of a convolution's weights as matrix products: one for each tap of the kernel and block of rows.

    Pixels of a padded image lie one behind the other, so what a tap has met is the image from some pixel on, and its
    gradient is one product over all pixels.

    Args:
        gradient: [N, C', H', W'] of the convolution's output.
        x: [N, C, H, W] its input. Both are read with channels last; other layouts cost a copy.
        kernel: (rows, columns).
        window: of stride 1.

    Returns:
        [C', C, *kernel].
    """
    (pad_rows, pad_columns), dilation = window.padding, window.dilation
    reach = (kernel[0] - 1) * dilation[0]  # rows of x below the first that a row of the output depends on
    H, W, H_out, W_out = *x.shape[2:], *gradient.shape[2:]
    width = W + 2 * pad_columns
    offsets = [r * dilation[0] * width + c * dilation[1] for r in range(kernel[0]) for c in range(kernel[1])]
    sums = x.new_zeros(len(offsets), x.shape[1], gradient.shape[1])
    block = max(1, BLOCK_BYTES // (x[0, :, 0].nbytes + gradient[0, :, 0].nbytes))
    for image, of_output in zip(x.movedim(1, -1), gradient.movedim(1, -1), strict=True):  # [H, W, C]
        for start in range(0, H_out, block):
            part = of_output[start : start + block]
            first, end = start - pad_rows, start - pad_rows + len(part) + reach
            beyond = (max(-first, 0), max(end - H, 0))
            source = F.pad(image[max(first, 0) : min(end, H)], (0, 0, pad_columns, pad_columns, *beyond))
            pixels = source.reshape(-1, source.shape[-1])
            part = F.pad(part, (0, 0, 0, width - W_out)).reshape(-1, part.shape[-1])
            part = part[: len(pixels) - offsets[-1]]  # only the zeros after its last row reach further
            for tap, offset in zip(sums, offsets, strict=True):
                tap.addmm_(pixels[offset : offset + len(part)].t(), part)
    return sums.unflatten(0, kernel).permute(3, 2, 0, 1).contiguous()
