"""Fine-tuning presets: which parameters train, counted and named."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from support.small_model import PANORAMA, random_panoramas, small_model

from coop3d.models import LoraOptions, Preset
from coop3d.models.presets import count_parameters, parameter_table

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HEADS = {"dpt_feature_head", "dpt_regressor_head", "pose_head", "scale_head"}


def preset_of(name):
    cfg = OmegaConf.load(CONFIGS / "preset" / f"{name}.yaml")
    return hydra.utils.instantiate(cfg.get("preset", cfg))


def prepared(name, **sections):
    model = small_model(panorama=PANORAMA, geometric_inputs={"modalities": ["ray_dirs"]}, **sections)
    preset_of(name).apply(model)
    return model


def trained(model):
    return {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["full", "lower_encoder_lr"])
def test_everything_trains(name):
    model = prepared(name)
    assert trained(model) == {n for n, _ in model.named_parameters()}


def test_the_encoder_is_frozen_and_keeps_nothing():
    model = prepared("freeze_encoder")
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith("encoder.")
    }
    outputs = []
    model.encoder.register_forward_hook(lambda _m, _i, output: outputs.append(output.patches))
    model(random_panoramas(B=1)).points_ref.mean().backward()
    assert not outputs[0].requires_grad


def test_only_heads_train():
    model = prepared("heads")
    assert {n.split(".")[0] for n in trained(model)} == HEADS


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (CONFIGS / "preset").glob("*.yaml") if p.stem != "lora")
)
def test_a_matching_head_trains_with_every_preset(name):
    """Published weights have none: frozen, it would stay random and spoil the poses."""
    names = trained(prepared(name, pred_head={"matching": {"dim": 4, "hidden_dim": 8}}))
    head = {n for n, _ in small_model(pred_head={"matching": {"dim": 4, "hidden_dim": 8}}).named_parameters()}
    assert {n for n in head if n.startswith("matching_head.")} <= names


def test_lora_trains_a_matching_head_too():
    pytest.importorskip("peft")
    names = trained(prepared("lora", pred_head={"matching": {"dim": 4, "hidden_dim": 8}}))
    assert "matching_head.log_temperature" in names


@pytest.mark.parametrize("name", ["full", "freeze_encoder", "heads", "bias_only", "lower_encoder_lr"])
def test_every_trainable_parameter_gets_a_gradient(name):
    """Or a parallel wrapper would wait for it."""
    model = prepared(name)
    p = model(random_panoramas(B=1))
    (p.points_ref.mean() + p.confidence.mean() + p.mask_logits.mean() + p.predicted_rays.mean()).backward()
    assert all((q.grad is not None) == q.requires_grad for q in model.parameters())


@pytest.mark.parametrize("config", ["mapanything", "mapanything_v1_1"])
def test_biases_are_about_a_ten_thousandth(config):
    with torch.device("meta"):
        model = hydra.utils.instantiate(OmegaConf.load(CONFIGS / "model" / f"{config}.yaml"))
    preset_of("bias_only").apply(model)
    assert all(n.endswith(".bias") for n in trained(model))
    share = sum(c.trainable for c in count_parameters(model)) / sum(c.total for c in count_parameters(model))
    assert 5e-5 < share < 2e-4


def test_what_no_input_reaches_stays_frozen():
    model = small_model(panorama={"known_rays_input": True})
    frozen = model.freeze_unreachable()
    Preset(name="full").apply(model)
    assert {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad} == set(frozen)


def test_counts_by_hand():
    model = prepared("heads")
    counts = {c.name: c for c in count_parameters(model)}
    assert counts["scale_token"].total == 24
    assert counts["scale_head"].trainable == 16 * 8 + 8 + 2 * (8 * 8 + 8) + 8 + 1
    assert counts["encoder"].trainable == 0
    text = parameter_table(model)
    share = sum(c.trainable for c in counts.values()) / sum(p.numel() for p in model.parameters())
    assert f"{share:.3%} of the parameters train" in text


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"preset\.freeze: 'encodr\.\*' matches no parameter; .*encoder"):
        Preset(name="x", freeze=("encodr.*",)).apply(small_model())
    with pytest.raises(ValueError, match="preset x trains no parameter"):
        Preset(name="x", freeze=("*",)).apply(small_model())
    with pytest.raises(ValueError, match="must be positive"):
        LoraOptions(rank=0)
    with pytest.raises(ValueError, match=r"preset\.lora\.targets: 'encoder\.nothing' names no linear layer"):
        Preset(name="x", lora=LoraOptions(targets=("encoder.nothing",))).apply(small_model())
