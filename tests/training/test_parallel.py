"""The real network, cut into shards layer by layer: same predictions, losses and gradients as in one piece."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.processes import run_ranks
from support.small_model import PANORAMA, random_panoramas, small_model

from coop3d.conf import DistributedConf, Strategy
from coop3d.models import Preset
from coop3d.training.distributed import processes
from coop3d.training.flops import FlopCounter
from coop3d.training.parallel import replicate, shard, transformer_blocks, whole
from coop3d.training.state import MovingAverage, model_state
from coop3d.types import ViewInputs

CHECKPOINTED = {"gradient_checkpointing": True}
PRESETS = {"full": None, "frozen": Preset(name="frozen", freeze=("encoder.*",))}


def network(preset: str = "full", **sections):
    head = {**sections.pop("pred_head", {}), "matching": {"dim": 8, "hidden_dim": 8}}
    model = small_model(panorama=PANORAMA, pred_head=head, **sections)
    if PRESETS[preset] is not None:
        PRESETS[preset].apply(model)
    return model.train()


def loss_of(prediction) -> torch.Tensor:
    return (
        prediction.points_ref.square().mean()
        + prediction.mask_logits.mean()
        + prediction.confidence.log().mean()
        + prediction.descriptors[..., 0].mean()
    )


def _work(rank: int, folder: str) -> None:
    inputs = random_panoramas(B=2)
    mine = inputs._map(lambda x: x[rank : rank + 1])
    with processes(DistributedConf(strategy=Strategy.fsdp, device="cpu", timeout_minutes=1)) as me:
        for preset in PRESETS:
            model = shard(
                network(preset, encoder=CHECKPOINTED, info_sharing=CHECKPOINTED, pred_head=CHECKPOINTED),
                me,
                False,
            )
            assert replicate(model, me) is model
            assert all(p.to_local().numel() < p.numel() for p in model.parameters() if p.shape[0] > 1)
            loss_of(model(mine)).backward()
            gradients = {
                n: whole(p.grad).contiguous() for n, p in model.named_parameters() if p.grad is not None
            }
            weights = model_state(model)
            if me.is_main:
                save_file(gradients, f"{folder}/{preset}_gradients.safetensors")
                save_file(
                    {k: v.clone() for k, v in weights.items()}, f"{folder}/{preset}_weights.safetensors"
                )
        _averages_count_inside_only(model, mine)


def _averages_count_inside_only(model: torch.nn.Module, inputs: ViewInputs) -> None:
    """Also of what lies outside of all blocks, whose gathered weights FSDP keeps after a pass without gradients."""
    average = MovingAverage(model, 0.5)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for name, part in zip(trained, average._averages, strict=True):
        part.mul_(1.0 if "blocks" in name else 0.9)
    with torch.no_grad():
        before = model(inputs).distance
        with average.applied():
            assert not torch.allclose(model(inputs).distance, before)
        assert torch.equal(model(inputs).distance, before)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(_work, str(folder))
    return folder


@pytest.mark.parametrize("preset", list(PRESETS))
def test_gradients_of_shards_with_checkpointing_equal_those_of_the_whole(sharded, preset):
    model, inputs = network(preset), random_panoramas(B=2)
    for b in range(2):
        (loss_of(model(inputs._map(lambda x, b=b: x[b : b + 1]))) / 2).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = load_file(sharded / f"{preset}_gradients.safetensors")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        size = gradient.abs().max().item()  # float32 sums in another order
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * max(size, 1e-3), msg=name)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_weights_put_together_are_the_original_ones(sharded, preset):
    found, expected = load_file(sharded / f"{preset}_weights.safetensors"), network(preset).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_layer_of_both_transformers_is_a_unit():
    assert len(list(transformer_blocks(network()))) == 2 + 4


def test_operations_are_counted_by_shape_without_touching_the_model():
    """Against a count by hand of the matrix products of one encoder layer's MLP, and linear in the batch."""
    model = network()
    before, counter = {k: v.clone() for k, v in model.state_dict().items()}, FlopCounter(model)
    one, two = (counter.of_step(random_panoramas(B=b)) for b in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.02)  # a few products do not depend on the batch
    tokens, dim = 3 * (3 * 6 + 1), 24
    mlp = 2 * 2 * tokens * dim * 4 * dim  # two products, multiply and add
    assert one > 3 * 2 * mlp  # forward and backward pass, two layers
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_linear_layers_operations_are_those_of_its_product():
    class Single(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 5, bias=False)

        def forward(self, inputs):
            return self.linear(inputs.rays)

    inputs = random_panoramas(B=1, V=2, h=1, w=2)
    assert FlopCounter(Single()).of_step(inputs) == 3 * 2 * (2 * 14 * 28) * 3 * 5


def test_a_loader_that_dies_while_operations_are_counted_is_no_trouble_with_counting():
    class Dying(torch.nn.Module):
        def forward(self, inputs):
            os.kill(os.getpid(), signal.SIGCHLD)
            return inputs.rays @ torch.ones(3, 1)

    def report(*_):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, report)
    try:
        assert FlopCounter(Dying()).of_step(random_panoramas(B=1, V=2, h=1, w=2)) == 3 * 2 * (2 * 14 * 28) * 3
        assert signal.getsignal(signal.SIGCHLD) is report
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_attention_is_counted():
    """On a CPU, too, whose kernel PyTorch's counter does not know: queries by keys, and weights by values."""

    class Attention(torch.nn.Module):
        def forward(self, inputs):
            tokens = inputs.rays.flatten(2, 3)  # [B, V, H W, 3]
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    inputs = random_panoramas(B=1, V=2, h=1, w=2)
    assert FlopCounter(Attention()).of_step(inputs) == 3 * 2 * 2 * 2 * (14 * 28) ** 2 * 3
