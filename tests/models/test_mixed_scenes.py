"""Scenes with different numbers of views in one pass: the same as one by one, and nothing padded."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.small_model import PANORAMA, random_panoramas, small_model
from torch.utils.flop_counter import FlopCounterMode

from coop3d.models import attention
from coop3d.models.attention import attend

COUNTS = (2, 4, 1, 2)
GATED = {
    "encoder": {"mlp": "swiglu", "final_norm": False, "pass_cls_token": True},
    "info_sharing": {"dim": 24, "mlp": "swiglu", "layer_scale_init": 1.0},
}
VARIANTS = pytest.mark.parametrize(
    "sections", [{}, GATED, {"panorama": PANORAMA}], ids=["plain", "gated", "panorama"]
)


def scenes(counts=COUNTS):
    return [random_panoramas(B=1, V=count, seed=i) for i, count in enumerate(counts)]


@VARIANTS
@pytest.mark.parametrize("views_at_once", [None, 2])
def test_together_is_the_same_as_one_by_one(sections, views_at_once):
    model = small_model(**sections).double()
    batch = [scene._map(torch.Tensor.double) for scene in scenes()]
    with torch.no_grad():
        together = model.forward_mixed(batch, views_at_once)
        alone = [model(scene) for scene in batch]
    for a, b in zip(together, alone, strict=True):
        for name, expected in vars(b).items():
            found = getattr(a, name)
            assert (found is None) == (expected is None), name
            if expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=name)


def test_gradients_are_the_same_too():
    models = [small_model(panorama=PANORAMA).double() for _ in range(3)]
    models[2] = small_model(panorama=PANORAMA, info_sharing={"gradient_checkpointing": True}).double()
    batch = [scene._map(torch.Tensor.double) for scene in scenes((2, 3))]
    for model, predict in zip(
        models,
        (models[0].forward_mixed, lambda b: [models[1](s) for s in b], models[2].forward_mixed),
        strict=True,
    ):
        sum(p.points_ref.square().mean() + p.mask_logits.mean() for p in predict(batch)).backward()
        assert model.scale_token.grad is not None
    for other in models[1:]:
        for (name, a), (_, b) in zip(models[0].named_parameters(), other.named_parameters(), strict=True):
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_nothing_is_padded():
    model = small_model(panorama=PANORAMA)
    with torch.no_grad():
        with FlopCounterMode(display=False) as together:
            model.forward_mixed(scenes())
        alone = 0
        for scene in scenes():
            with FlopCounterMode(display=False) as one:
                model(scene)
            alone += one.get_total_flops()
    # One position table per pass instead of one per scene is all that differs.
    assert 0.999 * alone < together.get_total_flops() <= alone


def test_attention_by_length_against_a_mask():
    g = torch.Generator().manual_seed(0)
    lengths = (3, 5, 3, 1)
    qkv = torch.randn(1, 12, 3, 2, 4, generator=g, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    mask = owner[:, None] == owner
    expected = torch.nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), mask)
    torch.testing.assert_close(attend(qkv, lengths), expected.transpose(1, 2), rtol=0, atol=1e-12)


def test_the_kernels_layout():
    """A stand-in with the kernel's signature that computes with a mask."""

    def kernel(q, k, v, ends_q, ends_k, longest_q, longest_k):
        assert q.is_contiguous()
        assert ends_q.dtype == torch.int32
        assert not ends_q.is_inference()  # or a training step could not keep it
        owner = torch.bucketize(torch.arange(len(q)), ends_q[1:-1], right=True)
        assert longest_q == longest_k == int(owner.bincount().max())
        mask = owner[:, None] == owner
        heads = (x.transpose(0, 1) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads, mask).transpose(0, 1)

    qkv = torch.randn(1, 9, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = attend(qkv, (2, 4, 3))
    attention._ends.cache_clear()
    with torch.inference_mode():
        found = attention._attend_by_kernel(kernel, qkv, (2, 4, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "is_cuda", "capability", "expected"),
    [
        (torch.bfloat16, True, (8, 6), True),
        (torch.float16, True, (9, 0), True),
        (torch.float16, True, (7, 5), False),
        (torch.float32, True, (8, 6), False),
        (torch.bfloat16, False, None, False),
    ],
)
def test_the_kernel_runs_in_half_precision_from_ampere_on(dtype, is_cuda, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    qkv = SimpleNamespace(dtype=dtype, is_cuda=is_cuda, device="cuda:0")
    assert attention._runs_flash_attention(qkv) is expected


def test_scenes_that_do_not_fit_together_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="no scene"):
        model.forward_mixed([])
    with pytest.raises(ValueError, match="expected one size and batch 1"):
        model.forward_mixed([random_panoramas(B=1, V=2), random_panoramas(B=1, V=2, w=5)])
    with pytest.raises(ValueError, match="batch 1"):
        model.forward_mixed([random_panoramas(B=2, V=2)])
    one, other = scenes((2, 2))
    with pytest.raises(ValueError, match="some scenes have origins"):
        model.forward_mixed([one, replace(other, origins=None)])


@pytest.mark.gpu
def test_variable_length_kernel_on_a_gpu():
    if attention._variable_length_kernel() is None:
        pytest.skip("this PyTorch has no variable-length attention")
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 90, 3, 2, 64, generator=g).cuda().bfloat16()
    lengths = (30, 40, 20)
    by_kernel, by_length = attend(qkv, lengths), attention._attend_by_length(qkv, lengths)
    torch.testing.assert_close(by_kernel, by_length, rtol=2e-2, atol=2e-2)  # bf16 has 8 bits
