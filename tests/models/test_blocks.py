"""Transformer blocks, circular convolution and upsampling against slow plain twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from coop3d.models.blocks import Attention, Block, GeluMlp, SwiGlu, gated
from coop3d.models.spatial import WrapConv2d, upsample, wrap_columns


def test_attention_against_a_loop_over_heads():
    torch.manual_seed(0)
    layer = Attention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = layer.qkv(x).split(12, dim=-1)
    heads = []
    for i in range(3):
        s = slice(4 * i, 4 * i + 4)
        weights = torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / math.sqrt(4), dim=-1)
        heads.append(weights @ v[..., s])
    expected = layer.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dim", "hidden"), [(1536, 4096), (64, 176)])
def test_swiglu_hidden_size_is_the_published_one(dim, hidden):
    with torch.device("meta"):
        assert SwiGlu(dim).w3.in_features == hidden


def test_gated_and_plain_mlp_by_hand():
    gated, plain = SwiGlu(8), GeluMlp(8)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    a, b = gated.w12(x)[:, : gated.w3.in_features], gated.w12(x)[:, gated.w3.in_features :]
    torch.testing.assert_close(gated(x), gated.w3(a * torch.sigmoid(a) * b))
    y = plain.fc1(x)
    torch.testing.assert_close(plain(x), plain.fc2(y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))))


def test_the_gradient_of_a_gated_mlp_against_finite_differences():
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(gated, x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_mlp_keeps_its_input_alone_and_loses_no_bit(dtype):
    x, gradient = (
        torch.randn(3, 5, n, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (16, 8)
    )
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = gated(x.requires_grad_())
    gate, value = x.chunk(2, dim=-1)
    plain = F.silu(gate) * value
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]
    assert torch.equal(y, plain)
    assert torch.equal(*(torch.autograd.grad(out, x, gradient)[0] for out in (y, plain)))


def test_a_block_without_layer_scale_has_no_such_parameters():
    names = dict(Block(8, 2, "gelu", None).named_parameters())
    assert not any("ls" in n for n in names)
    assert torch.equal(Block(8, 2, "gelu", 0.5).ls1.gamma, torch.full((8,), 0.5))


@pytest.mark.parametrize("dilation", [1, 2])
def test_wrapped_convolution_is_the_plain_one_on_a_repeated_image(dilation):
    torch.manual_seed(0)
    conv = WrapConv2d(2, 3, 3, wrap=True, column_dilation=dilation)
    x = torch.randn(1, 2, 4, 5)
    plain = F.conv2d(x.repeat(1, 1, 1, 3), conv.weight, conv.bias, 1, (1, dilation), (1, dilation))
    torch.testing.assert_close(conv(x), plain[..., 5:10])


def test_wrap_columns_of_an_image_narrower_than_the_margin():
    assert wrap_columns(torch.arange(3.0)[None], 4).tolist() == [[2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]


@pytest.mark.parametrize(("width", "target"), [(8, 16), (8, 14), (24, 42)])
def test_wrapped_upsampling_against_direct_linear_reading(width, target):
    x = torch.randn(1, 1, 3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = upsample(x, (3, target), wrap=True)
    for j in range(target):
        position = (j + 0.5) * width / target - 0.5
        i, t = math.floor(position), position - math.floor(position)
        expected = (1 - t) * x[..., i % width] + t * x[..., (i + 1) % width]
        torch.testing.assert_close(found[..., j], expected, rtol=0, atol=1e-12)


def test_plain_upsampling_hits_the_corners():
    x = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    y = upsample(x, (7, 9), wrap=False)
    torch.testing.assert_close(y[..., [0, 0, -1, -1], [0, -1, 0, -1]], x[..., [0, 0, -1, -1], [0, -1, 0, -1]])
