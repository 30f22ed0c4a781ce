"""Linear layers by oneDNN's product, against PyTorch's own; on whatever processor this runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.executed import Executed

from coop3d.models import linear as module
from coop3d.models.blocks import Block
from coop3d.models.linear import Linear, linear, mkl_is_slow
from coop3d.models.recompute import run_block

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN"
)


@pytest.fixture
def products(monkeypatch):
    """Layers of any size go by oneDNN; the shapes of what it multiplied."""
    calls = []
    counted = module.product
    monkeypatch.setattr(module, "product", lambda a, *rest: calls.append(tuple(a.shape)) or counted(a, *rest))
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(module, "FEWEST_PRODUCTS", 1)
    return calls


def tensors(shape, before=6, after=5):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=generator) for s in ((*shape, before), (after, before), (after,)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("after", [5, 8])
def test_values_and_gradients_are_pytorchs(shape, after, bias, transposed, products):
    results = []
    for function in (linear, F.linear):
        x, weight, b = (t.requires_grad_() for t in tensors(shape, after=after))
        given = x.movedim(0, -2) if transposed and len(shape) > 1 else x
        y = function(given, weight, b if bias else None)
        # A gradient that lies otherwise in memory, as from a transposed user of the result.
        (y.movedim(-1, 0).contiguous() ** 3).sum().backward()
        results.append((y.detach(), x.grad, weight.grad, b.grad if bias else torch.zeros(0)))
    assert len(products) == 3
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_only_gradients_that_are_wanted_are_computed(products):
    x, weight, b = tensors((7,))
    linear(x, weight.requires_grad_(), b).sum().backward()
    assert products == [(7, 6), (5, 7)]
    products.clear()
    linear(x.requires_grad_(), weight.detach(), b).sum().backward()
    assert products == [(7, 6), (7, 5)]
    products.clear()
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, b), F.linear(x, weight, b))
    assert products == [(7, 6)]


def test_the_rest_is_left_to_pytorch(products, monkeypatch):
    x, weight, b = tensors((7,))
    assert linear(x.double(), weight.double(), b.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16(), b.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, b).dtype == torch.bfloat16
    with torch.device("meta"):
        assert Linear(6, 5)(torch.empty(7, 6)).is_meta
    assert linear(x[:0], weight, b).shape == (0, 5)
    compiled = torch.compile(linear, backend="eager", dynamic=True)
    torch.testing.assert_close(compiled(x, weight, b), F.linear(x, weight, b))
    monkeypatch.setattr(module, "FEWEST_PRODUCTS", 7 * 6 * 5 + 1)
    linear(x, weight, b)
    assert products == []


@pytest.mark.usefixtures("products")
def test_a_checkpoint_that_keeps_products_does_not_compute_them_again():
    block = Block(8, 2, "swiglu", 1.0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    gradients, executed = [], {}
    for policy in (None, "selective", "full"):
        with Executed(torch.ops.mkldnn._linear_pointwise.default) as counter:
            y = run_block(block, x, checkpointing=policy is not None, policy=policy or "full")
            gradients.append(torch.autograd.grad(y.square().sum(), [x, *block.parameters()]))
        executed[policy] = counter.count
    assert executed == {None: 4 + 8, "selective": 4 + 8, "full": 4 + 4 + 8}
    for found in gradients[1:]:
        assert all(map(torch.equal, found, gradients[0]))


def test_only_amds_processors_with_avx_512_have_a_slow_product(monkeypatch):
    decide = mkl_is_slow.__wrapped__
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    found = {}
    for vendor in ("AuthenticAMD", "GenuineIntel"):
        for instructions in ("AVX2", "AVX512"):
            monkeypatch.setattr(module, "_processor", lambda v=vendor: f"vendor_id : {v}\n")
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda i=instructions: i)
            found[vendor, instructions] = decide()
    assert [case for case, slow in found.items() if slow] == [("AuthenticAMD", "AVX512")]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(module, "_processor", lambda: "AuthenticAMD")
    assert not decide()
