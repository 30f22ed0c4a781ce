"""A finished run opened again: model, datasets with changed roots."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from support.toy_run import ToyModel

from coop3d.conf import ConfigError
from coop3d.training import CheckpointError, load_run
from coop3d.training.checkpoint import BEST
from coop3d.training.launch import plain


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
    with pytest.raises(ConfigError, match=r"no key 'dataset\.test\.sise'"):
        load_run(toy_run, overrides=["dataset.test.sise=4"])
    with pytest.raises(ConfigError, match="split=tets is not one of train, val, test"):
        load_run(toy_run).dataset("tets")


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
