"""Low-rank adapters: zero start, merging, saving alone. Needs PEFT, an extra; see the last test without it."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file
from support.small_model import random_panoramas, small_model

from coop3d.models import (
    LoraOptions,
    MapAnything,
    Preset,
    load_adapter,
    load_checkpoint,
    merge_lora,
    save_adapter,
    save_checkpoint,
)
from coop3d.models.lora import is_adapter, plain_state

OPTIONS = LoraOptions(rank=2, alpha=6.0, targets=("encoder.*.attn.qkv", "info_sharing.*.mlp.*"))
PRESET = Preset(name="lora", train=("scale_head.*",), lora=OPTIONS)


def points(model):
    with torch.no_grad():
        return model(random_panoramas(B=1)).points_ref


@pytest.fixture
def adapted():
    """A model whose adapters do something."""
    pytest.importorskip("peft")
    model = small_model()
    PRESET.apply(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_adapters_start_at_zero_effect_and_only_they_train():
    pytest.importorskip("peft")
    model = small_model()
    before = points(model)
    PRESET.apply(model)
    assert torch.equal(points(model), before)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in names if not is_adapter(n)} == {
        n for n, _ in model.named_parameters() if n.startswith("scale_head.")
    }
    layers = {n.split(".lora_")[0] for n in names if is_adapter(n)}
    assert len(layers) == 2 + 4 * 2  # encoder depth, and two MLP layers in each of four blocks
    model(random_panoramas(B=1)).points_ref.mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_merged_weights_by_hand(adapted):
    state, plain = adapted.state_dict(), plain_state(adapted)
    name = "encoder.model.blocks.0.attn.qkv"
    A, B = (state[f"{name}.lora_{x}.default.weight"] for x in "AB")
    torch.testing.assert_close(plain[f"{name}.weight"], state[f"{name}.base_layer.weight"] + 3.0 * B @ A)
    assert plain.keys() == small_model().state_dict().keys()


def test_a_training_checkpoint_with_adapters_starts_the_next_stage(adapted, tmp_path):
    """Whatever trains next: the model is the merged one, and gets adapters of its own afterwards if at all."""
    checkpoint = {"model": adapted.state_dict(), "ema": None, "config": {"preset": {"lora": {"alpha": 6.0}}}}
    torch.save(checkpoint, tmp_path / "stage1.pth")
    following = small_model(seed=5)
    report = load_checkpoint(following, tmp_path / "stage1.pth")
    assert report.loaded == len(following.state_dict())
    for name, value in plain_state(adapted).items():
        torch.testing.assert_close(following.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    PRESET.apply(following)
    torch.testing.assert_close(points(following), points(adapted), rtol=1e-3, atol=1e-3)
    torch.save({**checkpoint, "config": {}}, tmp_path / "unknown.pth")
    with pytest.raises(
        ValueError, match=r"unknown\.pth: holds low-rank adapters, but no config\.preset\.lora"
    ):
        load_checkpoint(small_model(), tmp_path / "unknown.pth")


def test_a_saved_model_is_merged_and_the_one_in_training_is_not(adapted, tmp_path):
    before = {k: v.clone() for k, v in adapted.state_dict().items()}
    save_checkpoint(adapted, tmp_path / "x.pth")
    adapted.save_pretrained(tmp_path / "folder")
    assert all(torch.equal(v, before[k]) for k, v in adapted.state_dict().items())
    loaded = small_model(seed=5)
    load_checkpoint(loaded, tmp_path / "x.pth")
    torch.testing.assert_close(points(loaded), points(adapted), rtol=1e-3, atol=1e-3)
    folder = MapAnything.from_pretrained(tmp_path / "folder")
    assert torch.equal(points(folder), points(loaded))


def test_merging_in_place_leaves_plain_layers(adapted):
    before, weights = points(adapted), plain_state(adapted)
    assert merge_lora(adapted) == 10
    assert all(torch.equal(v, weights[k]) for k, v in adapted.state_dict().items())
    torch.testing.assert_close(points(adapted), before, rtol=1e-3, atol=1e-3)


def test_adapters_load_alone(adapted, tmp_path):
    with torch.no_grad():
        adapted.get_parameter("scale_head.output_proj.bias").add_(0.5)
    save_adapter(adapted, tmp_path)
    model = small_model()
    load_adapter(model, tmp_path)
    assert torch.equal(points(model), points(adapted))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.encoder.model.blocks.0.attn.qkv.lora_A.weight" in stored  # PEFT's own format
    other = small_model(encoder={"depth": 3})
    PRESET.apply(other)
    with pytest.raises(ValueError, match="does not fit the model: missing"):
        load_adapter(other, tmp_path)


def test_peft_reads_the_adapter(adapted, tmp_path):
    peft = pytest.importorskip("peft")
    save_adapter(adapted, tmp_path)
    wrapped = peft.PeftModel.from_pretrained(small_model(), str(tmp_path))
    expected = small_model()
    load_adapter(expected, tmp_path)
    with torch.no_grad():
        found = wrapped.get_base_model()(random_panoramas(B=1)).distance
        assert torch.equal(found, expected(random_panoramas(B=1)).distance)


def test_models_without_adapters_have_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="no adapters to save"):
        save_adapter(small_model(), tmp_path)
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        load_adapter(small_model(), tmp_path)
    assert merge_lora(small_model()) == 0


def test_without_the_library_the_preset_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # an import of it fails
    with pytest.raises(ValueError, match=r"pip install 'coop3d\[peft\]'"):
        PRESET.apply(small_model())
