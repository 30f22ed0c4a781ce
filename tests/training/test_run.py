"""A finished run opened again: model, datasets with changed roots."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from support.toy_run import ToyModel, make_trainer

from coop3d.conf import ConfigError
from coop3d.training import CheckpointError, load_run
from coop3d.training.checkpoint import BEST
from coop3d.training.launch import plain

CONFIG = {
    "machine": {"opv2v_images_root": "${oc.env:TOY_ROOT,/nowhere}", "opv2v_depth_root": None},
    "model": {"_target_": "support.toy_run.ToyModel", "dropout": 0.3},
    "dataset": {
        "train": {"_target_": "support.toy_run.ToyDataset", "size": 12},
        "val": {"_target_": "support.toy_run.ToyDataset", "size": 6},
        "test": {"_target_": "support.toy_run.ToyDataset", "size": 10, "bad": [3]},
    },
    "train_params": {"precision": "auto", "tf32": False},
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    trainer = make_trainer(run_dir, dropout=0.3)
    trainer.config = plain(OmegaConf.create(CONFIG))
    trainer.fit()
    return run_dir


def test_model_comes_back_in_evaluation_mode_with_its_weights(run_dir):
    run = load_run(run_dir)
    assert isinstance(run.model, ToyModel)
    assert not run.model.training
    assert run.checkpoint == run_dir / BEST
    weights = torch.load(run_dir / BEST, weights_only=True)["model"]
    assert all(torch.equal(run.model.state_dict()[name], weights[name]) for name in weights)


def test_datasets_come_from_the_saved_config_and_follow_overrides(run_dir):
    assert len(load_run(run_dir).dataset("val")) == 6
    assert len(load_run(run_dir, overrides=["dataset.test.size=4"]).dataset("test")) == 4
    with pytest.raises(ConfigError, match=r"no key 'dataset\.test\.sise'"):
        load_run(run_dir, overrides=["dataset.test.sise=4"])
    with pytest.raises(ConfigError, match="split=tets is not one of train, val, test"):
        load_run(run_dir).dataset("tets")


def test_saved_config_keeps_references_to_the_machine_and_resolves_the_machine(monkeypatch):
    monkeypatch.setenv("TOY_ROOT", "/data/toy")
    cfg = OmegaConf.create({**CONFIG, "dataset": {"train": {"root": "${machine.opv2v_images_root}"}}})
    saved = plain(cfg)
    assert saved["machine"]["opv2v_images_root"] == "/data/toy"
    assert saved["dataset"]["train"]["root"] == "${machine.opv2v_images_root}"


def test_moved_data_are_asked_for_by_key(run_dir):
    run = load_run(run_dir)
    run.config.dataset.test.root = "${machine.opv2v_images_root}"
    with pytest.raises(ConfigError, match=r"nowhere does not exist.*overrides=\[machine\.opv2v_images_root="):
        run.dataset("test")


def test_weights_of_another_model_are_refused(run_dir, tmp_path):
    payload = torch.load(run_dir / BEST, weights_only=True)
    payload["model"]["extra"] = torch.zeros(1)
    torch.save(payload, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: its weights do not fit"):
        load_run(tmp_path / "other.pth")
