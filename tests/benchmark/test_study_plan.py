"""Study files: every mistake is named with file, key and what to do; the shipped studies can be trained."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.scripts import run_script
from support.study_files import BASE, study_file

from coop3d.benchmark.study import (
    Study,
    StudyError,
    evaluate_command,
    plan_runs,
    prepare,
    read_study,
    train_command,
)
from coop3d.benchmark.study.commands import check_budgets, composed, quoted
from coop3d.benchmark.study.plan import key_of
from coop3d.conf import Optimizer, build, compose
from coop3d.evaluation.contracts import ContractError
from coop3d.training.network import build_network

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
BUDGET = "budget: {steps: 4, validations: 2}\n"
ARMS = "arms: {a: {}, b: {overrides: [model.panorama.wrap_around=false]}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BUDGET, "arms: is missing, expected a mapping"),
        (ARMS, "budget: is missing, expected a mapping"),
        (BUDGET + "arms: [a, b]\n", r"arms: found \['a', 'b'\], expected a mapping"),
        (BUDGET + "arms: {}\n", "arms: found no arm"),
        (BUDGET + "arms: {../up: {}}\n", r"arms\.\.\./up: found '\.\./up', expected a name"),
        (BUDGET + "arms: {3: {}}\n", r"arms\.3: found 3, expected a name"),
        (BUDGET + "arms: {a: {override: []}}\n", r"arms\.a\.override: is no key of a study; known here are overrides"),
        (BUDGET + "arms: {a: {overrides: wrap=1}}\n", r"arms\.a\.overrides: found 'wrap=1', expected a list"),
        (BUDGET + "arms: {a: {overrides: [wrap]}}\n", "overrides: found 'wrap', expected text like key=value"),
        (BUDGET + "arms: {a: {budget: mine}}\n", r"arms\.a\.budget: found 'mine', expected one of equal, own"),
        (BUDGET + "arms: {a: {note: 3}}\n", r"arms\.a\.note: found 3, expected text"),
        (BUDGET + "arms:\n  a: {}\n  a: {}\n", "the key 'a' is there twice"),
        (BUDGET + ARMS + "against: c\n", "against: found 'c', expected one of a, b"),
        (BUDGET + ARMS + "seeds: [0, 0]\n", r"seeds: found \[0, 0\], expected different whole numbers"),
        (BUDGET + ARMS + "seeds: [true]\n", r"seeds: found \[True\]"),
        (BUDGET + ARMS + "seeds: []\n", r"seeds: found \[\]"),
        (BUDGET + ARMS + "name: a/b\n", "name: found 'a/b', expected a name"),
        (BUDGET + ARMS + "scores: [pose/nonsense]\n", r"scores: found \['pose/nonsense'\], expected some of pose/"),
        (BUDGET + ARMS + "arm: {}\n", "arm: is no key of a study"),
        (BUDGET + ARMS + "evaluation: {split: tests}\n", r"evaluation\.split: found 'tests', expected one of train"),
        (BUDGET + ARMS + "evaluation: {samples: 0}\n", r"evaluation\.samples: found 0, expected a whole number"),
        (BUDGET + ARMS + "evaluation: {points: 1}\n", r"evaluation\.points: found 1, expected true or false"),
        (BUDGET + ARMS + "evaluation: {contracts: [x.json], split: val}\n", "leave out split and samples"),
        (ARMS + "budget: {steps: 0}\n", r"budget\.steps: found 0, expected a whole number of at least 1"),
        (ARMS + "budget: {validations: 2}\n", r"budget\.steps: is missing"),
        (ARMS + "budget: {steps: 10, validations: 4}\n", r"budget\.validations: found 4, expected a divisor"),
        (ARMS + BUDGET + "x: [1\n", "is no valid YAML"),
        (ARMS + BUDGET + "x: !!python/object/apply:os.getcwd []\n", "is no valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, text, message):
    path = study_file(tmp_path, text)
    with pytest.raises(StudyError, match=f"^{re.escape(str(path))}: .*{message}"):
        read_study(path)


def test_a_base_is_needed_and_a_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(BUDGET + ARMS)
    with pytest.raises(StudyError, match="base: is missing, expected a list of overrides"):
        read_study(path)
    with pytest.raises(StudyError, match=r"absent\.yaml: cannot be read"):
        read_study(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "override",
    ["train_params.epochs=9", "++train_params.steps_per_epoch=9", "train_params.global_batch=4"],
)  # fmt: skip
def test_an_arm_may_not_change_the_budget(tmp_path, override):
    arms = f'arms: {{a: {{}}, b: {{overrides: ["{override}"]}}}}\n'
    with pytest.raises(StudyError, match=r"arms\.b\.overrides: found .*; say|all arms train on one budget"):
        read_study(study_file(tmp_path, BUDGET + arms))


def test_nor_through_a_config_group(tmp_path):
    arms = "arms: {a: {}, b: {overrides: [train_params=opv2v_cyl_coop, train_params.warmup_steps=1]}}\n"
    study = read_study(study_file(tmp_path, BUDGET + arms), ["train_params.warmup_steps=1"])
    with pytest.raises(StudyError, match=r"arm b: .*global_batch 40, the base has 2"):
        plan_runs(study, tmp_path)


def test_a_budget_of_its_own_is_kept_and_said(tmp_path):
    own = "{budget: own, overrides: [train_params.epochs=3, train_params.steps_per_epoch=5]}"
    text = BUDGET + f"arms: {{a: {{}}, b: {own}}}\n"
    study = read_study(study_file(tmp_path, text), ["train_params.warmup_steps=1"])
    steps = {run.arm: run.steps for run in plan_runs(study, tmp_path)}
    assert steps == {"a": 4, "b": 15}
    assert study.arms["b"].own_budget


@pytest.mark.parametrize("key", ["train_params.seed=3", "hydra.run.dir=x"])
def test_what_the_runner_sets_is_refused_everywhere(tmp_path, key):
    with pytest.raises(StudyError, match=r"arms\.a\.overrides: .*the runner sets it"):
        read_study(study_file(tmp_path, BUDGET + f"arms: {{a: {{overrides: [{key}]}}}}\n"))
    with pytest.raises(StudyError, match=r"base: .*the runner sets it"):
        read_study(study_file(tmp_path, BUDGET + ARMS), [key])


def test_an_arm_that_does_not_compose_stops_everything(tmp_path):
    text = BUDGET + "arms: {a: {}, b: {overrides: [model.panorama.wrap_arround=false]}}\n"
    study = read_study(study_file(tmp_path, text), ["train_params.warmup_steps=1"])
    with pytest.raises(StudyError, match=r"arm b: .*wrap_arround"):
        plan_runs(study, tmp_path)
    wrong = read_study(
        study_file(tmp_path, BUDGET + ARMS), ["train_params.lr=-1", "train_params.warmup_steps=1"]
    )
    with pytest.raises(StudyError, match=r"arm a: .*train_params\.lr=-1"):
        plan_runs(wrong, tmp_path)


def test_a_missing_contract_is_noticed_before_training(tmp_path):
    text = BUDGET + ARMS + "evaluation: {contracts: [nowhere.json]}\n"
    with pytest.raises((ContractError, OSError), match=r"nowhere\.json"):
        prepare(read_study(study_file(tmp_path, text), ["train_params.warmup_steps=1"]))


def test_keys_of_overrides():
    found = [
        key_of(o) for o in ("a.b=1", "+a.b=1", "++a.b={c:d=e}", "~a.b", "~a.b=1", "dataset=x", "group@p.q=x")
    ]
    assert found == ["a.b", "a.b", "a.b", "a.b", "a.b", "dataset", "group"]


@pytest.mark.parametrize("value", ["plain/path-1.pth", "with space", "it's", "a=b,c", "[x]"])
def test_quoted_values_come_through_hydra_unchanged(value):
    overrides = [f"train_params.teacher={quoted(value)}"]
    assert compose("train", overrides).train_params.teacher == value


def test_runs_are_seed_by_seed_with_base_arm_budget_and_seed_in_this_order(tmp_path):
    study = read_study(
        study_file(tmp_path, BUDGET + ARMS + "seeds: [4, 7]\n"), ["train_params.warmup_steps=1"]
    )
    runs = plan_runs(study, tmp_path / "out put")
    assert [(r.arm, r.seed) for r in runs] == [("a", 4), ("b", 4), ("a", 7), ("b", 7)]
    command = train_command(runs[1], processes=1)
    assert command[:2] == [sys.executable, str(ROOT / "scripts" / "train.py")]
    assert command[2:] == [
        "machine=demo", "dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo",
        "train_params.warmup_steps=1", "model.panorama.wrap_around=false", "train_params.epochs=2",
        "train_params.steps_per_epoch=2", "train_params.seed=4",
        f"hydra.run.dir='{tmp_path}/out put/runs/b/seed4/train'",
    ]  # fmt: skip
    assert "--nproc-per-node" in train_command(runs[1], processes=2)
    evaluate = evaluate_command(runs[0], study, "test", None, processes=1)
    assert "split=test" in evaluate
    assert any(part.endswith("runs/a/seed4/train/checkpoint-best.pth'") for part in evaluate)


@cache
def shipped(name: str) -> tuple[Study, dict[str, DictConfig]]:
    """A study and the configs of its arms, to read: to compose them all takes seconds."""
    study = read_study(ROOT / "configs" / "studies" / f"{name}.yaml")
    return study, {arm: composed(study, of_arm) for arm, of_arm in study.arms.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_arm_of_every_shipped_study_composes_and_builds(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)  # contracts are named from there
    study, configs = shipped(path.stem)
    assert study.name == path.stem
    check_budgets(study, configs)
    for name, config in configs.items():
        build_network(config)
        build(config, "loss")
        steps = config.train_params.epochs * config.train_params.steps_per_epoch
        assert study.arms[name].own_budget or steps == study.budget.steps, name
    assert study.evaluation.sets()
    different = {str(config) for config in configs.values()}
    assert len(different) == len(configs)  # no arm is the base by mistake


def test_what_the_shipped_arms_change():
    """The names of arms say what the composed configs hold."""
    _, configs = shipped("training")
    base = configs["base"]
    assert base.model.panorama.wrap_around
    assert not configs["no_wrap"].model.panorama.wrap_around
    assert base.dataset.train.augmentation.yaw_roll
    assert not configs["no_yaw_roll"].dataset.train.augmentation.yaw_roll
    assert base.model.panorama.known_rays_input
    assert not configs["no_known_rays"].model.panorama.known_rays_input
    assert not base.loss.terms.pose.pairwise
    assert configs["pairwise_pose"].loss.terms.pose.pairwise
    assert configs["regressed_pose"].model.pred_head.matching is None
    assert set(base.loss.terms) - set(configs["regressed_pose"].loss.terms) == {"matching"}
    assert set(configs["sign_aware"].loss.terms) - set(base.loss.terms) == {"side"}
    assert set(configs["log_scale"].loss.terms) - set(base.loss.terms) == {"scale"}
    curriculum = build(configs["curriculum"], "loss")
    for progress, factor in ((0.05, 2), (0.9, 1)):
        curriculum.progress = progress
        assert curriculum.weight("matching") == pytest.approx(factor * base.loss.terms.matching.weight)


def test_the_optimisers_of_the_shipped_studies():
    """Ablations train as the recipe does; fine-tuning keeps AdamW, by which its table was made."""
    kinds = {name: c.train_params.optimizer for name, c in shipped("optimizer")[1].items()}
    adamw, muon = Optimizer.adamw, Optimizer.muon
    assert kinds == {"adamw": adamw, "adamw_double": adamw, "muon": muon, "muon_half": muon}
    for study in ("panoramas", "training", "supervision"):
        assert {c.train_params.optimizer for c in shipped(study)[1].values()} == {muon}
    assert {c.train_params.optimizer for c in shipped("transfer")[1].values()} == {adamw}


def test_every_arm_reads_the_panoramas_that_its_name_says():
    for name in ("panoramas", "supervision"):
        for arm_name, config in shipped(name)[1].items():
            if "pinholes" in arm_name:
                continue
            dataset = config.dataset
            folders = [Path(dataset[split].source.cache_root).name for split in ("train", "val", "test")]
            if name == "panoramas":
                assert folders == [arm_name] * 3
                assert {dataset[split].source.kind for split in ("train", "val", "test")} == {arm_name}
                continue
            assert folders == ["rig" if arm_name == "dense" else arm_name, "rig", "rig"]
            source = {"dense": "dense", "fused_lidar": "fused", "own_lidar": "lidar"}[arm_name]
            assert dataset.train.source.depth_source == source
            assert (dataset.val.source.depth_source, dataset.test.source.depth_source) == ("dense", "dense")


def test_dry_run_prints_commands_and_leaves_nothing(tmp_path):
    out, smoke = tmp_path / "out", f"study={ROOT}/configs/studies/smoke.yaml"
    command = ("run_study.py", smoke, f"output_dir={out}", "--dry-run")
    printed = run_script(*command, "--only", "no_wrap", "train_params.lr=0.5").stdout.splitlines()
    assert not out.exists()
    lines = [shlex.split(line) for line in printed if not line.startswith("#")]
    assert [Path(line[1]).name for line in lines] == ["train.py", "evaluate.py"] * 2
    assert all(
        "train_params.lr=0.5" in line and "model.panorama.wrap_around=false" in line for line in lines[::2]
    )
    printed = run_script(*command, "--seeds", "1").stdout.splitlines()
    named = [line for line in printed if line.startswith("#")]
    assert [line.split()[1] for line in named] == ["base/seed1:", "no_wrap/seed1:"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{smoke}"], 2, "output_dir=... is missing"),
        (["{out}"], 2, "study=... is missing"),
        (["{smoke}", "{out}", "--jobs", "0"], 2, "expected a whole number of at least 1"),
        (["{smoke}", "{out}", "--seeds", "0,7"], 1, "--seeds: no seed 7; the study has 0, 1."),
        (["{smoke}", "{out}", "--seeds", "x"], 2, "found 'x', expected whole numbers"),
        (["{smoke}", "{out}", "--only", "nobody"], 1, "--only: no arm nobody; the study has base, no_wrap"),
        (["{smoke}", "{out}", "outputdir=x", "--dry-run"], 1, "There is no config key 'outputdir'"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, arguments, status, message):
    smoke = f"study={ROOT}/configs/studies/smoke.yaml"
    command = [a.format(smoke=smoke, out=f"output_dir={tmp_path}") for a in arguments]
    assert message in run_script("run_study.py", *command, status=status).stderr


def test_the_base_is_in_one_place():
    for path in SHIPPED:
        assert len(re.findall(r"machine=\w+", path.read_text())) == 1
    assert "machine=demo" in BASE
