"""Gradients of the weights by matrix products, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from coop3d.models import convolution
from coop3d.models.convolution import Window, conv2d, weight_gradient
from coop3d.models.spatial import WrapConv2d

# kernel, padding, dilation, image: padded or already wrapped, dilated columns (the coarsest level), one tap, one pixel
CASES = [
    ((3, 3), (1, 1), (1, 1), (7, 9)),
    ((3, 3), (1, 0), (1, 1), (6, 8)),
    ((3, 3), (1, 0), (1, 2), (6, 11)),
    ((3, 3), (2, 2), (2, 2), (6, 11)),
    ((5, 1), (0, 0), (1, 1), (9, 4)),
    ((1, 1), (0, 0), (1, 1), (5, 6)),
    ((3, 3), (1, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 100])
@pytest.mark.parametrize(("kernel", "padding", "dilation", "size"), CASES)
def test_products_are_the_gradient_of_the_weights(
    kernel, padding, dilation, size, rows_at_a_time, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 3, *kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    out = F.conv2d(x, weight, None, (1, 1), padding, dilation)
    gradient = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    out.backward(gradient)
    row_bytes = 8 * (3 * size[1] + 5 * out.shape[3])
    monkeypatch.setattr(convolution, "BLOCK_BYTES", rows_at_a_time * row_bytes)
    found = weight_gradient(gradient, x, kernel, Window((1, 1), padding, dilation))
    torch.testing.assert_close(found, weight.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_convolution_with_channels_last_has_pytorchs_gradients(wrap, monkeypatch):
    """All three gradients, whatever processor this runs on, and the path is really taken."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    calls = []
    counted = weight_gradient
    monkeypatch.setattr(convolution, "weight_gradient", lambda *a: calls.append(1) or counted(*a))
    torch.manual_seed(0)
    layer = WrapConv2d(4, 6, 3, wrap=wrap, column_dilation=2)
    gradients = []
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(1))
        x = x.to(memory_format=layout).requires_grad_()
        layer.zero_grad()
        layer(x).square().sum().backward()
        gradients.append((x.grad, layer.weight.grad, layer.bias.grad))
    assert len(calls) == 1  # rows last is left to PyTorch
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_frozen_weights_cost_nothing(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(convolution, "weight_gradient", lambda *_: pytest.fail("not needed"))
    layer = WrapConv2d(4, 6, 3).requires_grad_(False)
    x = torch.randn(1, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_the_path_for_slow_gradients_can_be_compiled():
    """The choice looks at strides and at the processor, which a compiler of symbolic shapes cannot."""
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    x = torch.randn(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    window = Window((1, 1), (1, 1), (1, 1))
    compiled = torch.compile(lambda x: conv2d(x, weight, None, window), backend="eager", dynamic=True)
    torch.testing.assert_close(compiled(x), conv2d(x, weight, None, window))
    compiled(x).sum().backward()
    assert weight.grad is not None
