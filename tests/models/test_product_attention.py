"""Attention by oneDNN's products, against PyTorch's own in float64; on whatever processor this runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.executed import Executed

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


def tensors(*shape, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def result_and_gradients(attention, inputs, gradient):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, gradient)


# Blocks: one, several of equal size, of unequal sizes, of the fewest rows.
@pytest.mark.parametrize("T", [1, 5, 6, 7, 40])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.usefixtures("slow_mkl")
def test_values_and_gradients_are_those_of_float64(T, transposed):
    inputs = [3 * x for x in tensors(2, 3, T, 8)]
    (gradient,) = tensors(2, 3, T, 8, count=1)
    exact = result_and_gradients(
        F.scaled_dot_product_attention, [x.double() for x in inputs], gradient.double()
    )
    if transposed:  # in memory, as between a layer's projections
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
        gradient = gradient.transpose(1, 2).contiguous().transpose(1, 2)
    with Executed(FORWARD) as forward, Executed(BACKWARD) as backward:
        found = result_and_gradients(attend, inputs, gradient)
    assert (forward.count, backward.count) == (1, 1)
    for x, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


def test_blocks_of_the_real_size():
    inputs = tensors(1, 2, 1297, 16)
    (gradient,) = tensors(1, 2, 1297, 16, count=1)
    assert [len(x) for (x,) in module._blocks(inputs[0][0, 0])] == [433, 432, 432]
    found = result_and_gradients(attend_by_products, inputs, gradient)
    exact = result_and_gradients(F.scaled_dot_product_attention, inputs, gradient)
    for x, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-6)


def test_the_operation_is_registered_as_pytorch_asks():
    inputs = [x.requires_grad_() for x in tensors(1, 2, 9, 4)]
    torch.library.opcheck(FORWARD, inputs, test_utils=("test_schema", "test_autograd_registration"))


@pytest.mark.usefixtures("slow_mkl")
def test_sequences_of_several_lengths_go_by_products_too():
    inputs = tensors(1, 2, 12, 8)
    with Executed(FORWARD) as executed:
        out = attend(*inputs, lengths=(4, 5, 3))
    assert executed.count == 3
    parts = zip(*(x.split((4, 5, 3), dim=2) for x in inputs), strict=True)
    torch.testing.assert_close(out, torch.cat([F.scaled_dot_product_attention(*p) for p in parts], dim=2))


@pytest.mark.usefixtures("slow_mkl")
def test_the_rest_is_left_to_pytorch(monkeypatch):
    inputs = tensors(1, 2, 9, 4)
    with Executed(FORWARD) as executed:
        assert attend(*(x.double() for x in inputs)).dtype == torch.float64
        assert attend(*(x.bfloat16() for x in inputs)).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            Attention(8, 2)(torch.randn(1, 9, 8))
        assert attend(*(x.to("meta") for x in inputs)).is_meta
        monkeypatch.setattr(module, "FEWEST_TOKENS", 10)
        attend(*inputs)
        monkeypatch.setattr(module, "FEWEST_TOKENS", 9)
        monkeypatch.setattr(module, "mkl_is_slow", lambda: False)
        attend(*inputs)
    assert executed.count == 0


@pytest.mark.usefixtures("slow_mkl")
def test_a_compiler_sees_pytorchs_attention():
    graphs = []
    compiled = torch.compile(attend, backend=lambda graph, _: graphs.append(graph) or graph)
    inputs = tensors(1, 2, 9, 4)
    torch.testing.assert_close(compiled(*inputs), attend_by_products(*inputs))
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
