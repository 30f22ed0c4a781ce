"""Model, preset and announced cost of a composed config."""

from __future__ import annotations

import logging

import pytest
import torch
from omegaconf import OmegaConf
from support.small_model import PANORAMA, random_panoramas, small_values

from coop3d.conf import CONFIG_DIR, ConfigError, compose, require_complete, require_targets
from coop3d.models import MapAnything
from coop3d.models.memory import estimate_memory
from coop3d.training import load_run
from coop3d.training.checkpoint import FORMAT, VERSION, write_atomic
from coop3d.training.launch import ALONE
from coop3d.training.memory_need import gpu_need
from coop3d.training.network import announce_cost, build_network

DEMO = ["machine=demo", "dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo"]
PRESETS = sorted(path.stem for path in (CONFIG_DIR / "preset").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_says_its_name(preset):
    cfg = compose("train", [*DEMO, f"preset={preset}"])
    require_complete(cfg)
    require_targets(cfg, ("preset",))
    assert cfg.preset.name == preset


def test_the_default_changes_nothing_and_lower_encoder_lr_only_a_rate():
    default, slower = compose("train", DEMO), compose("train", [*DEMO, "preset=lower_encoder_lr"])
    assert default.preset.name == "full"
    assert default.train_params.encoder_lr_factor == 1.0
    assert slower.train_params.encoder_lr_factor == 0.05
    chosen = compose("train", [*DEMO, "preset=lower_encoder_lr", "train_params.encoder_lr_factor=0.2"])
    assert chosen.train_params.encoder_lr_factor == 0.2


def test_the_preset_reaches_the_network():
    model = build_network(compose("train", [*DEMO, "preset=heads"]))
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        "dpt_feature_head", "dpt_regressor_head", "pose_head", "scale_head",
    }  # fmt: skip
    cfg = compose("train", [*DEMO, "preset.train=[nothing.*]"])
    with pytest.raises(ConfigError, match=r"preset=full: preset\.train: 'nothing\.\*' matches no parameter"):
        build_network(cfg)


def test_a_config_saved_before_presets_trains_everything():
    cfg = OmegaConf.create({"model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}})
    assert all(p.requires_grad for p in build_network(cfg).parameters())


@pytest.mark.parametrize("preset", ["heads", "lora"])
def test_a_run_opened_again_has_its_preset_and_weights(preset, tmp_path):
    if preset == "lora":
        pytest.importorskip("peft")
    node = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "preset" / f"{preset}.yaml"))
    model = {"_target_": "coop3d.models.build_model", **small_values(panorama=PANORAMA)}
    config = {"model": model, "preset": node}
    source = build_network(OmegaConf.create(config))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01)
    state = {"format": FORMAT, "version": VERSION, "model": source.state_dict(), "config": config, "step": 3}
    write_atomic({**state, "git": {"revision": "x"}}, tmp_path / "checkpoint-best.pth")
    opened = load_run(tmp_path).model
    assert opened.state_dict().keys() == source.state_dict().keys()
    trained = [n for n, p in opened.named_parameters() if p.requires_grad]
    assert trained == [n for n, p in source.named_parameters() if p.requires_grad]
    opened.save_pretrained(tmp_path / "export")  # adapters merged: a plain model
    inputs = random_panoramas(B=1)
    with torch.no_grad():
        exported = MapAnything.from_pretrained(tmp_path / "export")(inputs)
        torch.testing.assert_close(exported.distance, source(inputs).distance, rtol=1e-3, atol=1e-3)


def test_parameters_and_memory_are_announced(caplog, quick_forecast):
    with caplog.at_level(logging.INFO):
        announce_cost(compose("train", DEMO), ALONE)
    text = caplog.text
    assert "100.000% of the parameters train" in text
    assert "2 x 2 views of 504 x 126, fp32" in text
    assert "sum per GPU, FSDP on 1" in text
    assert not torch.cuda.is_initialized()


def test_photographs_count_every_camera(caplog, quick_forecast):
    cfg = compose("train", ["machine=demo", "dataset=opv2v_pinhole_coop", "model=tiny", "train_params=demo"])
    with caplog.at_level(logging.INFO):
        announce_cost(cfg, ALONE)
    assert "8 views of 280 x 210" in caplog.text


def test_forecast_and_preflight_share_one_dry_run(quick_forecast):
    estimate_memory.cache_clear()
    cfg = compose("train", DEMO)
    announce_cost(cfg, ALONE)
    need = gpu_need(cfg, ALONE)
    assert need is not None
    assert need.parts["activations"] > 0
    assert estimate_memory.cache_info().misses == 1
    assert gpu_need(compose("train", [*DEMO, "preset=heads"]), ALONE) != need  # another preset is another run
