"""One small file of a trained model."""

from __future__ import annotations

import pytest
import torch
from support.scripts import run_script

from coop3d.conf import ConfigError
from coop3d.training import CheckpointError, load_run
from coop3d.training.checkpoint import LAST, load_checkpoint
from coop3d.training.publish import publish_checkpoint


def test_it_opens_as_a_run_with_rounded_weights_and_without_the_optimiser(toy_run, tmp_path):
    target = tmp_path / "weights" / "toy.pth"
    assert publish_checkpoint(toy_run / LAST, target) == target.stat().st_size
    assert "optimizer" not in load_checkpoint(target)
    original, opened = load_run(toy_run / LAST), load_run(target)
    assert opened.step == original.step
    for name, x in original.model.state_dict().items():
        assert opened.model.state_dict()[name].dtype == x.dtype
        torch.testing.assert_close(opened.model.state_dict()[name], x, atol=1e-6, rtol=1e-3)


def test_the_config_can_be_changed(toy_run, tmp_path):
    publish_checkpoint(toy_run / LAST, tmp_path / "toy.pth", ["train_params.tf32=true"])
    plain, changed = load_run(toy_run / LAST).config, load_run(tmp_path / "toy.pth").config
    assert changed.train_params.tf32 is True is not plain.train_params.tf32
    assert {**changed, "train_params": {**changed.train_params, "tf32": plain.train_params.tf32}} == plain
    with pytest.raises(ConfigError, match=r"no key 'train_params\.tf'"):
        publish_checkpoint(toy_run / LAST, tmp_path / "other.pth", ["train_params.tf=false"])
    assert not (tmp_path / "other.pth").exists()


def test_weights_beyond_half_precision_are_refused(toy_run, tmp_path):
    state = torch.load(toy_run / LAST, weights_only=True)
    name = next(iter(state["model"]))
    state["model"][name] = torch.full_like(state["model"][name], 1e6)
    state["ema"] = None
    torch.save(state, tmp_path / "large.pth")
    with pytest.raises(ValueError, match=f"{name}: a weight of 1e\\+06 does not fit into float16"):
        publish_checkpoint(tmp_path / "large.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    with pytest.raises((CheckpointError, FileNotFoundError)):
        publish_checkpoint(tmp_path / "absent.pth", tmp_path / "out.pth")


def test_the_script_replaces_nothing(toy_run, tmp_path):
    command = ("publish_checkpoint.py", toy_run, tmp_path / "toy.pth")
    assert "sha256" in run_script(*command).stdout
    published = (tmp_path / "toy.pth").read_bytes()
    assert "exists; remove it first" in run_script(*command, status=1).stderr
    assert (tmp_path / "toy.pth").read_bytes() == published
