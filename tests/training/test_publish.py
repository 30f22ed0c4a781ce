"""One small file of a trained model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from support.toy_run import make_trainer

from coop3d.training import CheckpointError, load_run
from coop3d.training.checkpoint import LAST, load_checkpoint
from coop3d.training.launch import plain
from coop3d.training.publish import publish_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts/publish_checkpoint.py"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    trainer = make_trainer(run_dir)
    trainer.config = plain(
        OmegaConf.create(
            {
                "machine": {"opv2v_images_root": "/nowhere"},
                "model": {"_target_": "support.toy_run.ToyModel"},
                "dataset": {},
                "train_params": {"precision": "auto", "tf32": False},
            }
        )
    )
    trainer.fit()
    return run_dir


def test_it_opens_as_a_run_with_rounded_weights_and_without_the_optimiser(run_dir, tmp_path):
    target = tmp_path / "weights" / "toy.pth"
    assert publish_checkpoint(run_dir / LAST, target) == target.stat().st_size
    assert "optimizer" not in load_checkpoint(target)
    original, opened = load_run(run_dir / LAST), load_run(target)
    assert opened.step == original.step
    for name, x in original.model.state_dict().items():
        assert opened.model.state_dict()[name].dtype == x.dtype
        torch.testing.assert_close(opened.model.state_dict()[name], x, atol=1e-6, rtol=1e-3)


def test_weights_beyond_half_precision_are_refused(run_dir, tmp_path):
    state = torch.load(run_dir / LAST, weights_only=True)
    name = next(iter(state["model"]))
    state["model"][name] = torch.full_like(state["model"][name], 1e6)
    state["ema"] = None
    torch.save(state, tmp_path / "large.pth")
    with pytest.raises(ValueError, match=f"{name}: a weight of 1e\\+06 does not fit into float16"):
        publish_checkpoint(tmp_path / "large.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    with pytest.raises((CheckpointError, FileNotFoundError)):
        publish_checkpoint(tmp_path / "absent.pth", tmp_path / "out.pth")


def test_the_script_replaces_nothing(run_dir, tmp_path):
    def run(*arguments: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
        )

    first = run(run_dir, tmp_path / "toy.pth")
    assert first.returncode == 0, first.stderr
    assert "sha256" in first.stdout
    again = run(run_dir, tmp_path / "toy.pth")
    assert again.returncode != 0
    assert "exists; remove it first" in again.stderr
