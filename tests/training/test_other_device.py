"""Training, scores, resuming and inference on a device that is not the CPU: same numbers, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.opv2v_files import write_dataset
from support.run_elsewhere import infer, train
from support.toy_run import records

from coop3d.training.out_of_memory import CHECKPOINTED

TESTS = Path(__file__).parents[1]
MATCHED = ["model=small", "loss=match_loss"]
KINDS = {
    "matched panoramas": [
        *MATCHED, "dataset=opv2v_cyl_coop_small", "dataset.panoramas=raw",
        "dataset.camera.width=128", "dataset.camera.height=32", "train_params.optimizer=muon",
    ],
    "regressed panoramas": [
        "model=tiny", "loss=coop_loss", "dataset=opv2v_cyl_coop_demo", "dataset.panoramas=raw",
        "dataset.camera.width=112", "dataset.camera.height=28", "train_params.ema_decay=0.9",
        *(f"{key}=true" for key in CHECKPOINTED),
    ],
    "fused photographs": [
        *MATCHED, "dataset=opv2v_pinhole_fused", "model.panorama.fuse_cameras=true",
        "model.panorama.wrap_around=false", "model.panorama.cameras_per_vehicle=4",
        "dataset.view_width=64", "dataset.view_height=48",
    ],
}  # fmt: skip
SHORT = {
    "steps_per_epoch": 1, "warmup_steps": 0, "global_batch": 2, "max_micro_batch": 2, "validation_samples": 1,
    "validation_batch": 1, "log_every_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    images, depth = write_dataset(tmp_path_factory.mktemp("opv2v"), frames=2, size=(160, 120))
    for root in (images, depth):
        (root / "validate").symlink_to("train")
    paths = {"opv2v_images_root": images, "opv2v_depth_root": depth, "num_workers": 0}
    return ["machine=demo", *(f"machine.{k}={v}" for k, v in paths.items())]


def elsewhere(task: str, out: Path, config: list[str]) -> None:
    command = [sys.executable, "-m", "support.run_elsewhere", task, str(out), json.dumps(config)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "matched panoramas" else pytest.mark.slow) for kind in KINDS],
)
def test_training_and_validation_give_the_numbers_of_the_cpu(machine, tmp_path, kind):
    short = ["train_params=demo", *(f"train_params.{k}={v}" for k, v in SHORT.items())]
    config = [*machine, *KINDS[kind], *short]
    train(tmp_path / "here", torch.device("cpu"), config)
    elsewhere("train", tmp_path / "there", config)
    for part, keys in (("train", ("loss", "grad_norm")), ("val", ("loss", "range/abs_rel"))):
        here, there = (records(tmp_path / name, part) for name in ("here", "there"))
        assert len(here) == len(there) == 2
        for a, b in zip(here, there, strict=True):
            assert [b[k] for k in keys] == pytest.approx([a[k] for k in keys], rel=1e-4)


def test_inference_gives_the_numbers_of_the_cpu(machine, tmp_path):
    config = [*machine, *KINDS["matched panoramas"]]
    elsewhere("infer", tmp_path / "there.npy", config)
    there = np.load(tmp_path / "there.npy")
    np.testing.assert_allclose(there, infer(torch.device("cpu"), config).numpy(), rtol=1e-4)


def test_the_device_refuses_tensors_of_the_cpu():
    code = """
import torch
from support.other_device import OTHER, MixedDevicesError, OtherDevice
with OtherDevice():
    x = torch.ones(3, device=OTHER)
    assert (x * 2 + torch.tensor(1.0))[torch.tensor([0])].tolist() == [3.0]
    for mixture in (lambda: x + torch.ones(3), lambda: torch.ones(3)[x.long()], lambda: x.lerp(x, torch.ones(3))):
        try:
            mixture()
        except MixedDevicesError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=True)
    assert done.stdout.count("tensors of the CPU, [(3,)], and of other:0") == 3
