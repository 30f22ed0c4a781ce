"""Transformer parts shared by the image encoder and the multi-view transformer (DINOv2's block)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.attention import attend
from coop3d.models.linear import Linear

LAYER_NORM_EPS = 1e-6


def at_least_float32(x: Tensor) -> Tensor:
    """float32 unless ``x`` is float64: leaves autocast's low precision, keeps a model in double double."""
    return x if x.dtype == torch.float64 else x.float()


class Attention(nn.Module):
    """Multi-head self-attention; ``qkv`` output is laid out as (3, heads, head_dim)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, lengths: tuple[int, ...] | None = None) -> Tensor:
        """[N, T, C] to [N, T, C]; ``lengths`` as in `attend`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        return self.proj(attend(qkv, lengths).flatten(2))


class GeluMlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = Linear(dim, ratio * dim)
        self.fc2 = Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Gated MLP: ``w3(silu(first half of w12) * second half)``."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = 8 * math.ceil(int(ratio * dim * 2 / 3) / 8)  # the size DINOv2's checkpoints have
        self.w12 = Linear(dim, 2 * hidden)
        self.w3 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return self.w3(gated(self.w12(x)))


def gated(x: Tensor) -> Tensor:
    """``silu(first half) * second half`` of the channels, [..., 2 C] to [..., C]."""
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        out: Tensor = _Gated.apply(x)
        return out
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class _Gated(torch.autograd.Function):
    """`gated` whose backward pass needs its input alone and writes both halves of the gradient where they belong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, dim=-1)
        of_x = torch.empty_like(x)
        of_gate, of_value = of_x.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate, out=of_value).mul_(gradient)
        torch.mul(value, gradient, out=of_gate)
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_x


class LayerScale(nn.Module):
    """Learned gain per channel on a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return x * self.gamma


def _layer_scale(dim: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale(dim, init)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp: Literal["gelu", "swiglu"],
        layer_scale_init: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = GeluMlp(dim) if mlp == "gelu" else SwiGlu(dim)
        self.ls1 = _layer_scale(dim, layer_scale_init)
        self.ls2 = _layer_scale(dim, layer_scale_init)

    def forward(self, x: Tensor, lengths: tuple[int, ...] | None = None) -> Tensor:
        """[N, T, C] to [N, T, C]; ``lengths`` as in `attend`."""
        x = x + self.ls1(self.attn(self.norm1(x), lengths))
        return x + self.ls2(self.mlp(self.norm2(x)))
