"""Attention by oneDNN's products, against PyTorch's own in float64; on whatever processor this runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.executed import Executed
from torch import library

from coop3d.models import product_attention as module
from coop3d.models.attention import attend
from coop3d.models.blocks import Attention, Block
from coop3d.models.product_attention import attend_by_products
from coop3d.models.recompute import run_block

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN"
)
FORWARD = torch.ops.coop3d.attend_by_products.default
BACKWARD = torch.ops.coop3d.attend_by_products_backward.default


@pytest.fixture
def slow_mkl(monkeypatch):
    """Sequences of any length go by products, a few rows at a time."""
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(module, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(module, "SCORES", 30)
    monkeypatch.setattr(module, "FEWEST_ROWS", 2)


def some_qkv(N, T, heads, head_dim):
    return torch.randn(N, T, 3, heads, head_dim, generator=torch.Generator().manual_seed(T))


def by_pytorch(qkv):
    return F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2)


def result_and_gradient(attention, qkv, gradient):
    leaf = qkv.clone().requires_grad_()
    out = attention(leaf)
    return out.detach(), *torch.autograd.grad(out, leaf, gradient)


# Blocks: one, several of equal size, of unequal sizes, of the fewest rows.
@pytest.mark.parametrize("T", [1, 5, 6, 7, 40])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.usefixtures("slow_mkl")
def test_values_and_gradients_are_those_of_float64(T, transposed):
    qkv, gradient = 3 * some_qkv(2, T, 3, 8), some_qkv(2, T, 3, 8)[:, :, 0]
    exact = result_and_gradient(by_pytorch, qkv.double(), gradient.double())
    if transposed:  # in memory
        qkv, gradient = (x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (qkv, gradient))
    with Executed(FORWARD) as forward, Executed(BACKWARD) as backward:
        found = result_and_gradient(attend, qkv, gradient)
    assert (forward.count, backward.count) == (1, 1)
    for x, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


def test_blocks_of_the_real_size():
    qkv, gradient = some_qkv(1, 1297, 2, 16), some_qkv(1, 1297, 2, 16)[:, :, 0]
    found = result_and_gradient(attend_by_products, qkv, gradient)
    exact = result_and_gradient(by_pytorch, qkv, gradient)
    for x, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-6)
    assert [len(x) for (x,) in module._blocks(qkv[0])] == [433, 432, 432]
    assert {len(x) for (x,) in module._blocks(torch.empty(5000, 1))} == {250}


def test_the_operation_is_registered_as_pytorch_asks():
    qkv = some_qkv(1, 9, 2, 4).requires_grad_()
    library.opcheck(FORWARD, (qkv,), test_utils=("test_schema", "test_autograd_registration"))


@pytest.mark.usefixtures("slow_mkl")
def test_sequences_of_several_lengths_go_by_products_too():
    qkv = some_qkv(1, 12, 2, 8)
    with Executed(FORWARD) as executed:
        out = attend(qkv, lengths=(4, 5, 3))
    assert executed.count == 3
    parts = [by_pytorch(x) for x in qkv.split((4, 5, 3), dim=1)]
    torch.testing.assert_close(out, torch.cat(parts, dim=1))


@pytest.mark.usefixtures("slow_mkl")
def test_the_rest_is_left_to_pytorch(monkeypatch):
    qkv = some_qkv(1, 9, 2, 4)
    with Executed(FORWARD) as executed:
        assert attend(qkv.double()).dtype == torch.float64
        assert attend(qkv.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            Attention(8, 2)(torch.randn(1, 9, 8))
        assert attend(qkv.to("meta")).is_meta
        monkeypatch.setattr(module, "FEWEST_TOKENS", 10)
        attend(qkv)
        monkeypatch.setattr(module, "FEWEST_TOKENS", 9)
        monkeypatch.setattr(module, "mkl_is_slow", lambda: False)
        attend(qkv)
    assert executed.count == 0


@pytest.mark.usefixtures("slow_mkl")
def test_a_compiler_sees_pytorchs_attention():
    graphs = []
    compiled = torch.compile(attend, backend=lambda graph, _: graphs.append(graph) or graph)
    qkv = some_qkv(1, 9, 2, 4)
    torch.testing.assert_close(compiled(qkv), attend_by_products(qkv))
    assert F.scaled_dot_product_attention in {node.target for node in graphs[0].graph.nodes}


@pytest.mark.usefixtures("slow_mkl")
def test_a_selective_checkpoint_keeps_the_result_and_not_the_scores():
    block = Block(8, 2, "swiglu", 1.0)
    x = torch.randn(2, 40, 8, requires_grad=True)
    gradients, executed = [], {}
    for policy in (None, "selective", "full"):
        with (
            Executed(FORWARD) as forward,
            Executed(BACKWARD) as backward,
            Executed(torch.ops.mkldnn._linear_pointwise.default) as products,
        ):
            y = run_block(block, x, checkpointing=policy is not None, policy=policy or "full")
            gradients.append(torch.autograd.grad(y.square().sum(), [x, *block.parameters()]))
        executed[policy] = (forward.count, backward.count)
        assert products.count == 0  # none that the checkpoint could keep
    assert executed == {None: (1, 1), "selective": (1, 1), "full": (2, 1)}
    for found in gradients[1:]:
        assert all(map(torch.equal, found, gradients[0]))
