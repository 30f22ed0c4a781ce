"""A finished run opened again: model, datasets with changed roots."""

from __future__ import annotations

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.toy_run import ToyModel

from coop3d.conf import CONFIG_DIR, ConfigError, compose
from coop3d.training import CheckpointError, load_run
from coop3d.training.checkpoint import BEST
from coop3d.training.launch import plain
from coop3d.training.overrides import overridden


def test_model_comes_back_in_evaluation_mode_with_its_weights(toy_run):
    run = load_run(toy_run)
    assert isinstance(run.model, ToyModel)
    assert not run.model.training
    assert run.checkpoint == toy_run / BEST
    weights = torch.load(toy_run / BEST, weights_only=True)["model"]
    assert all(torch.equal(run.model.state_dict()[name], weights[name]) for name in weights)


def test_datasets_come_from_the_saved_config_and_follow_overrides(toy_run):
    assert len(load_run(toy_run).dataset("val")) == 6
    assert len(load_run(toy_run, overrides=["dataset.test.size=4"]).dataset("test")) == 4
    with pytest.raises(
        ConfigError, match=r"no key 'dataset\.test\.sise'\. Did you mean 'dataset\.test\.size'"
    ):
        load_run(toy_run, overrides=["dataset.test.sise=4"])
    with pytest.raises(ConfigError, match="split=tets is not one of train, val, test"):
        load_run(toy_run).dataset("tets")


def test_a_section_is_replaced_by_a_file_of_its_group(monkeypatch):
    monkeypatch.setenv("OPV2V_ROOT", "/elsewhere")
    saved = {
        "machine": {"name": "demo", "opv2v_images_root": "data", "synthetic": {"scenarios": 3}},
        "dataset": {"panoramas": "cache", "train": {"root": "${machine.opv2v_images_root}"}},
    }
    config = overridden(saved, ["machine=local3090", "dataset.panoramas=raw", "machine.num_workers=0"])
    assert config.dataset.train.root == "/elsewhere"
    assert config.machine == {**compose("train", ["machine=local3090"]).machine, "num_workers": 0}
    assert config.dataset.panoramas == "raw"


def test_a_section_is_replaced_while_a_script_of_hydra_runs():
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        running = GlobalHydra.instance().hydra
        assert overridden({"machine": {"name": "demo"}}, ["machine=local3090"]).machine.name == "local3090"
        assert GlobalHydra.instance().hydra is running


def test_a_section_cannot_become_a_word():
    saved = {"machine": {"name": "demo"}, "preflight": {"enabled": True}, "dataset": {"test": {"size": 3}}}
    with pytest.raises(ConfigError, match=r"machine=locl is no file of .*configs/machine.* demo, local3090,"):
        overridden(saved, ["machine=locl"])
    with pytest.raises(
        ConfigError, match=r"preflight is a section, with the keys enabled; .*preflight\.NAME=VALUE"
    ):
        overridden(saved, ["preflight=off_please"])
    with pytest.raises(ConfigError, match=r"dataset\.test is a section"):
        overridden(saved, ["dataset.test=small"])
    with pytest.raises(ConfigError, match=r"no key 'datset\.test\.size'\. Did you mean 'dataset'"):
        overridden(saved, ["datset.test.size=3"])
    assert overridden(saved, ["dataset.test=null"]).dataset.test is None


def test_saved_config_keeps_references_to_the_machine_and_resolves_the_machine(monkeypatch):
    monkeypatch.setenv("TOY_ROOT", "/data/toy")
    cfg = OmegaConf.create(
        {
            "machine": {"opv2v_images_root": "${oc.env:TOY_ROOT,/nowhere}"},
            "dataset": {"train": {"root": "${machine.opv2v_images_root}"}},
        }
    )
    saved = plain(cfg)
    assert saved["machine"]["opv2v_images_root"] == "/data/toy"
    assert saved["dataset"]["train"]["root"] == "${machine.opv2v_images_root}"


def test_moved_data_are_asked_for_by_key(toy_run):
    run = load_run(toy_run)
    run.config.dataset.test.root = "${machine.opv2v_images_root}"
    with pytest.raises(ConfigError, match=r"nowhere does not exist.*overrides=\[machine\.opv2v_images_root="):
        run.dataset("test")


def test_weights_of_another_model_are_refused(toy_run, tmp_path):
    payload = torch.load(toy_run / BEST, weights_only=True)
    payload["model"]["extra"] = torch.zeros(1)
    torch.save(payload, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: its weights do not fit"):
        load_run(tmp_path / "other.pth")
