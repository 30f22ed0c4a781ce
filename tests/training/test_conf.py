"""Configs compose, and what is wrong with one is said with the key to change."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

import coop3d.benchmark  # noqa: F401 - knows the options of an evaluation
from coop3d.conf import (
    CONFIG_DIR,
    ConfigError,
    TrainParamsConf,
    compose,
    hydra_main,
    require_complete,
    require_paths,
    require_targets,
)
from coop3d.conf.composition import _without_flags

TEAM = (
    "machine=local3090",
    "model=mapanything",
    "dataset=opv2v_cyl_coop_ft",
    "train_params=opv2v_cyl_coop",
    "loss=opv2v_pose_loss",
    "model.model_config.pretrained_checkpoint_path=/weights/map-anything.pth",
    "model.encoder.gradient_checkpointing=true",
    "model.info_sharing.module_args.gradient_checkpointing=true",
    "model.pred_head.gradient_checkpointing=true",
    "hydra.run.dir=/experiments/run",
    "hydra.job.name=run",
)
DEMO = ("machine=demo", "dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo")
GROUPS = ("machine", "dataset", "model", "loss", "train_params", "distributed")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in options(group)])
def test_every_group_file_composes_completely_with_targets_that_exist(choice):
    base = [o for o in DEMO if o.split("=")[0] != choice.split("=")[0]]
    cfg = compose("train", [*base, choice])
    require_complete(cfg)
    require_targets(cfg, ("dataset", "model", "loss", "machine"))
    OmegaConf.to_object(cfg.train_params)
    OmegaConf.to_container(cfg.dataset, resolve=True)


def test_every_group_has_files():
    assert all(options(group) for group in GROUPS)


@pytest.mark.parametrize("loss", ["overall_loss", "opv2v_pose_loss"])
def test_the_teams_spellings(loss):
    cfg = compose("train", [o for o in TEAM if not o.startswith("loss=")] + [f"loss={loss}"])
    assert cfg.model.encoder.gradient_checkpointing is True
    assert cfg.model.info_sharing.module_args.gradient_checkpointing is True
    assert cfg.model.pred_head.gradient_checkpointing is True
    assert cfg.model.model_config.pretrained_checkpoint_path == "/weights/map-anything.pth"
    require_complete(cfg)
    require_targets(cfg, ("dataset", "model", "loss"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train_params.epoch=3", "Did you mean 'train_params.epochs'?"),
        ("train_params.warm_up_steps=3", "Did you mean 'train_params.warmup_steps'?"),
        ("train_param=demo", "Did you mean 'train_params'?"),
        ("machine.opv2v_image_root=/x", "Did you mean 'machine.opv2v_images_root'?"),
        ("dataset.trian.seed=1", "Did you mean 'dataset.train'?"),
        ("loss.terms.pos.weight=1", "Did you mean 'loss.terms.pose'?"),
        ("train_params.zzz=1", "Keys of 'train_params': "),
        ("machine=local309", "machine/local309"),
        ("train_params.epochs=many", "could not be converted to Integer"),
        ("train_params.on_bad_sample=ignore", "expected one of [skip, stop]"),
        ("train_params.clip_norm=true", "train_params.clip_norm"),
    ],
)
def test_wrong_override_says_what_to_change(override, expected):
    base = [o for o in DEMO if not override.startswith(f"{o.split('=')[0]}=")]
    with pytest.raises(ConfigError) as caught:
        compose("train", [*base, override])
    assert expected in str(caught.value)


def test_the_test_split_samples_like_validation_unless_told_otherwise():
    cfg = compose(
        "train", [*DEMO, "dataset.val.sampling.max_distance_m=30", "dataset.test.sampling.vehicles=3"]
    )
    assert cfg.dataset.test.sampling == {**cfg.dataset.val.sampling, "vehicles": 3}
    assert cfg.dataset.val.sampling.vehicles != 3


def test_script_exits_with_the_message_and_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py", *DEMO, "train_params.epoch=3"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"Config error: .*Did you mean 'train_params\.epochs'"):
        hydra_main("train")(lambda cfg: pytest.fail("the task must not run"))()


def test_a_run_directory_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    never = hydra_main("train")(lambda cfg: pytest.fail("the task must not run"))
    monkeypatch.setattr(sys, "argv", ["train.py", *DEMO, f"hydra.run.dir={tmp_path}/file/run"])
    with pytest.raises(
        SystemExit, match=r"cannot write .*file/run \(.*file is a file\); choose another hydra"
    ):
        never()
    monkeypatch.setattr(sys, "argv", ["train.py", *DEMO, f"hydra.run.dir={tmp_path}/a/b"])
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(
        SystemExit, match=r"cannot write .*a/b \(no permission to write in .*\); choose another"
    ):
        never()


def test_misspelt_argument_of_a_target():
    cfg = OmegaConf.create({"loss": {"_target_": "coop3d.losses.PoseTerm", "wieght": 1.0}})
    with pytest.raises(ConfigError, match=r"loss\.wieght: .*Did you mean 'loss\.weight'"):
        require_targets(cfg, ("loss",))
    cfg = OmegaConf.create({"loss": {"_target_": "coop3d.losses.NoSuchTerm"}})
    with pytest.raises(ConfigError, match=r"loss\._target_=coop3d\.losses\.NoSuchTerm cannot be imported"):
        require_targets(cfg, ("loss",))


def test_missing_roots_name_key_variable_and_path(tmp_path, monkeypatch):
    monkeypatch.setenv("OPV2V_ROOT", str(tmp_path / "absent"))
    cfg = compose("train", ["machine=local3090", *(o for o in DEMO if not o.startswith("machine="))])
    with pytest.raises(ConfigError) as caught:
        require_paths(cfg)
    message = str(caught.value)
    assert f"machine.opv2v_images_root={tmp_path / 'absent'} does not exist" in message
    assert "OPV2V_ROOT" in message
    assert "pass machine.opv2v_images_root=" in message
    monkeypatch.setenv("OPV2V_ROOT", str(tmp_path))
    monkeypatch.setenv("OPV2V_DEPTH_ROOT", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"OPV2V_DEPTH_ROOT.*null, which takes range from the LiDAR"):
        require_paths(
            compose("train", ["machine=local3090", *(o for o in DEMO if not o.startswith("machine="))])
        )


def test_present_roots_and_absent_depth_pass(tmp_path):
    overrides = [f"machine.opv2v_images_root={tmp_path}", "machine.opv2v_depth_root=null"]
    rest = [o for o in DEMO if not o.startswith("machine=")]
    require_paths(compose("train", ["machine=local3090", *rest, *overrides]))


def test_open_values_are_listed():
    with pytest.raises(ConfigError, match=r"No value for checkpoint\. Give .*checkpoint=VALUE"):
        require_complete(compose("evaluate", ["output_dir=/tmp/x"]))


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"lr": -1.0}, {"clip_norm": 0.0}, {"warmup_steps": 10}, {"max_micro_batch": 0}],
)
def test_values_out_of_range(changes):
    good = {"epochs": 2, "steps_per_epoch": 5, "global_batch": 2, "max_micro_batch": 1, "lr": 0.1}
    TrainParamsConf(**good)
    with pytest.raises(ConfigError, match=rf"train_params\.{next(iter(changes))}="):
        TrainParamsConf(**{**good, **changes})


def test_demo_roots_follow_the_environment(monkeypatch):
    monkeypatch.setenv("COOP3D_DEMO_ROOT", "/somewhere/demo")
    cfg = compose("train", DEMO)
    assert cfg.machine.opv2v_images_root == "/somewhere/demo"
    assert cfg.machine.opv2v_depth_root == "/somewhere/demo_depth"


@pytest.mark.parametrize(("value", "root"), [("", None), ("null", None), ("/mnt/深度, 1", "/mnt/深度, 1")])
def test_the_environment_can_say_that_there_is_no_depth(monkeypatch, value, root):
    monkeypatch.setenv("OPV2V_DEPTH_ROOT", value)
    assert compose("train", ["machine=local3090"]).machine.opv2v_depth_root == root


def test_flags_are_another_spelling_of_overrides():
    arguments = ["a=1", "--frames-json", "x y.json", "--help", "--frames-json=b=c"]
    assert _without_flags(arguments, ["frames_json"]) == [
        "a=1", "frames_json=x y.json", "--help", "frames_json=b=c"
    ]  # fmt: skip
    assert _without_flags(arguments, []) == arguments
    with pytest.raises(SystemExit, match="--frames-json needs a value"):
        _without_flags(["--frames-json"], ["frames_json"])


def test_a_home_directory_is_meant_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("HOME", "/home/chen")
    cfg = compose("train", [*TEAM, "machine.experiments_root=~/runs (1)"])
    assert cfg.machine.experiments_root == "/home/chen/runs (1)"


@pytest.mark.parametrize(
    "value",
    ["/data/张三/实验", "/runs/lr=1e-4 (a)~b/#2", "/plain/path_1", "/O'Neill/数据", "${machine.name}"],
)
def test_paths_of_any_letters_need_no_quotes(value):
    """Hydra's own grammar takes letters of ASCII only, and no '=' inside a value."""
    cfg = compose("train", [*TEAM, f"machine.experiments_root={value}"])
    assert cfg.machine.experiments_root == ("local3090" if value.startswith("$") else value)
    found = compose("evaluate", [f"checkpoint={value}", "output_dir=x", "overrides=[a.b=/数据,c.d=/y]"])
    assert found.overrides == ["a.b=/数据", "c.d=/y"]
