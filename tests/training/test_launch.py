"""What happens before the first step: synthetic data made once, constructors' refusals named by key."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.toy_run import make_trainer

import coop3d.datasets.synthetic
from coop3d.conf import ConfigError, build, compose
from coop3d.training.launch import ALONE, LOCK, _claimed, prepare_machine
from coop3d.training.run_log import write_run_description

DEMO = ["machine=demo", "dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo"]


@pytest.fixture
def made(monkeypatch, tmp_path) -> list[Path]:
    calls: list[Path] = []

    def make(images_root: Path, depth_root: Path, config: object) -> None:
        calls.append(images_root)
        images_root.mkdir(exist_ok=True)

    monkeypatch.setattr(coop3d.datasets.synthetic, "make_synthetic_opv2v", make)
    monkeypatch.setenv("COOP3D_DEMO_ROOT", str(tmp_path / "demo"))
    return calls


def test_synthetic_data_are_made_once_for_one_setting(made, tmp_path):
    prepare_machine(compose("train", DEMO))
    prepare_machine(compose("train", [*DEMO, "machine.synthetic.workers=1"]))  # decides no byte
    assert made == [tmp_path / "demo"]
    prepare_machine(compose("train", [*DEMO, "machine.synthetic.seed=5"]))
    assert len(made) == 2


def test_other_data_under_the_root_are_refused_by_key(monkeypatch, tmp_path):
    monkeypatch.setenv("COOP3D_DEMO_ROOT", str(tmp_path))
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ConfigError, match=r"machine\.synthetic: .*is not empty"):
        prepare_machine(compose("train", DEMO))


def test_real_machines_make_nothing(made):
    prepare_machine(compose("train", ["machine=local3090", *DEMO[1:]]))
    assert made == []


def test_a_constructors_refusal_names_the_key():
    cfg = OmegaConf.create({"machine": {"synthetic": {
        "_target_": "coop3d.datasets.synthetic.SyntheticConfig", "frames": 0}}})  # fmt: skip
    with pytest.raises(ConfigError, match=r"machine\.synthetic: frames is 0"):
        build(cfg, "machine.synthetic")


def _hold(run_dir: Path, held: Event) -> None:
    with _claimed(run_dir, ALONE):
        held.set()
        time.sleep(60)


def test_two_runs_cannot_share_a_directory(tmp_path):
    """The second would take the first one's temporary files and cut its log; it may begin when the first is gone."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    assert held.wait(30)
    with (
        pytest.raises(ConfigError, match="another run is training there"),
        _claimed(tmp_path, ALONE),
    ):
        pass
    other.kill()
    other.join()
    with _claimed(tmp_path, ALONE):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with (
        pytest.raises(ConfigError, match=r"cannot write .* \(Is a directory: .*\.lock\); choose another"),
        _claimed(tmp_path, ALONE),
    ):
        pass
    with _claimed(tmp_path / "new" / "run", ALONE):
        assert (tmp_path / "new" / "run").is_dir()


def test_looking_at_a_finished_run_again_leaves_its_description(tmp_path):
    described = []
    for _ in range(2):
        make_trainer(tmp_path, epochs=1).fit(lambda: described.append("written"))
    assert described == ["written"]


def test_a_run_that_goes_on_with_a_changed_config_keeps_the_old_one(tmp_path):
    write_run_description(tmp_path, {"lr": 1}, {})
    write_run_description(tmp_path, {"lr": 1}, {}, step=3)
    assert not list(tmp_path.glob("config-*"))
    write_run_description(tmp_path, {"lr": 2}, {}, step=5)
    assert (tmp_path / "config-step5.yaml").read_text() == "lr: 1\n"
    assert (tmp_path / "config.yaml").read_text() == "lr: 2\n"
