"""Contracts of another data set than the one trained on, trained parameters in the tables, the transfer study."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.study_files import result, small_study, study_file

from coop3d.benchmark.study import (
    ScoredContract,
    Study,
    StudyError,
    StudyResult,
    evaluate_command,
    plan_runs,
    prepare,
    read_study,
    study_outcome,
)
from coop3d.benchmark.study.commands import composed, evaluation_identity
from coop3d.benchmark.study.page import write_page
from coop3d.benchmark.study.record import study_json
from coop3d.benchmark.study.state import RunState
from coop3d.benchmark.study.tables import cost_lines, overview_lines, study_markdown, study_text
from coop3d.conf import build, compose
from coop3d.models import lora
from coop3d.training.run import overridden

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "configs" / "contracts" / "demo-test-nearest-v1.json"
OTHER = ROOT / "configs" / "contracts" / "coop3d-synth-v1-small-test-nearest.json"
TRANSFER = ROOT / "configs" / "studies" / "transfer.yaml"
BUDGET = "budget: {steps: 40, validations: 2}\n"


def scored_study(folder: Path, *overrides: str, common: str = "[]") -> Study:
    """Two contracts; the second with overrides of its own."""
    listed = "".join(f"        - {json.dumps(o)}\n" for o in overrides)
    text = (
        f"arms: {{a: {{}}}}\n{BUDGET}evaluation:\n  overrides: {common}\n  contracts:\n    - {CONTRACT}\n"
        f"    - contract: {OTHER}\n      overrides:\n{listed}"
    )
    return read_study(study_file(folder, text))


def test_a_contract_takes_overrides_of_its_own(tmp_path, monkeypatch):
    study = scored_study(
        tmp_path,
        "machine.opv2v_images_root=${oc.env:ELSEWHERE,data/there}",
        common="[dataset.depth_source=dense]",
    )
    plain, moved = study.evaluation.sets().values()
    assert plain == ScoredContract(path=CONTRACT)
    (run,) = plan_runs(study, tmp_path / "out")
    first, second = (evaluate_command(run, study, "x", c, processes=1) for c in (plain, moved))
    assert "overrides=['dataset.depth_source=dense']" in first
    assert any(part.startswith("frames_json=") and OTHER.name in part for part in second)
    # What the script makes of it, through Hydra's grammar: the reference is followed where it is scored.
    monkeypatch.setenv("ELSEWHERE", "data/else where")
    given = [part for part in second if part.startswith("overrides=")]
    changes = list(compose("evaluate", ["checkpoint=x", "output_dir=y", *given]).overrides)
    assert changes == ["dataset.depth_source=dense", "machine.opv2v_images_root=data/else where"]
    saved = {"machine": {"opv2v_images_root": "data/here"}, "dataset": {"depth_source": "auto",
             "root": "${machine.opv2v_images_root}"}}  # fmt: skip
    assert overridden(saved, changes).dataset == {"depth_source": "dense", "root": "data/else where"}


def test_overrides_are_part_of_what_was_evaluated(tmp_path):
    study = scored_study(tmp_path, "machine.opv2v_images_root=data/there")
    plain, moved = study.evaluation.sets().values()
    here = dataclasses.replace(moved, overrides=())
    assert evaluation_identity(study, moved) != evaluation_identity(study, here)
    assert evaluation_identity(study, plain) != evaluation_identity(study, here)
    # As before contracts could have overrides: what was scored then is not scored again.
    whole = dataclasses.replace(
        study, evaluation=dataclasses.replace(study.evaluation, overrides=moved.overrides)
    )
    assert evaluation_identity(whole, here) == evaluation_identity(study, moved)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("3", r"evaluation\.contracts: found 3, expected a path, or contract and overrides"),
        ("{overrides: [a=b]}", r"evaluation\.contracts\.0\.contract: is missing, expected the path"),
        ("{contract: x.json}", r"evaluation\.contracts\.0\.overrides: is missing, expected a list"),
        (
            "{contract: x.json, overrides: [a]}",
            r"contracts\.0\.overrides: found 'a', expected text like key=value",
        ),
        (
            "{contract: x.json, roots: []}",
            r"contracts\.0\.roots: is no key of a study; known here are contract",
        ),
        ("{contract: 3, overrides: []}", r"contracts\.0\.contract: found 3, expected text"),
    ],
)
def test_mistakes_in_contracts_are_named(tmp_path, entry, message):
    text = f"arms: {{a: {{}}}}\n{BUDGET}evaluation: {{contracts: [{entry}]}}\n"
    with pytest.raises(StudyError, match=message):
        read_study(study_file(tmp_path, text))


@pytest.fixture
def no_data_is_made(monkeypatch):
    """Data of the base are there."""
    monkeypatch.setattr("coop3d.benchmark.study.commands.prepare_machine", lambda config: None)
    monkeypatch.setattr("coop3d.benchmark.study.commands.require_paths", _paths := _Paths())
    return _paths


class _Paths:
    """The roots of the machine, and of the configs that were asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, config, how="") -> None:
        self.asked.append(config.machine.opv2v_images_root)


def test_every_root_is_looked_at_before_the_first_run(tmp_path, no_data_is_made):
    prepare(scored_study(tmp_path, "machine.opv2v_images_root=/data/of/the/source"))
    assert no_data_is_made.asked[1:] == ["/data/of/the/source"]
    wrong = scored_study(tmp_path, "machine.opv2v_image_root=/data")
    with pytest.raises(
        StudyError, match=rf"arm a: scored on {OTHER}: overrides: .* no key 'machine.opv2v_image_root'"
    ):
        prepare(wrong)


def test_missing_data_of_a_contract_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("coop3d.benchmark.study.commands.prepare_machine", lambda config: None)
    base = tmp_path / "here"
    study = scored_study(tmp_path, f"machine.opv2v_images_root=${{oc.env:SOURCE_ROOT,{tmp_path}/nowhere}}")
    roots = [f"machine.opv2v_images_root={base}", f"machine.opv2v_depth_root={base}"]
    study = dataclasses.replace(study, base=(*study.base, *roots))
    base.mkdir()
    with pytest.raises(StudyError, match=r"nowhere does not exist: set the environment variable SOURCE_ROOT, or pass "
                       r"evaluation\.contracts overrides machine\.opv2v_images_root="):  # fmt: skip
        prepare(study)


def test_adapters_without_their_library_are_refused_before_anything_trains(
    tmp_path, monkeypatch, no_data_is_made
):
    def absent():
        raise ValueError("low-rank adapters need the PEFT library: pip install 'coop3d[peft]'")

    study = small_study(tmp_path, "{base: {}, adapted: {overrides: [preset=lora]}}")
    monkeypatch.setattr("coop3d.training.network.peft_library", absent)
    with pytest.raises(StudyError, match=r"arm adapted: preset=lora: .*PEFT library"):
        prepare(study)
    without = dataclasses.replace(study, arms={"base": study.arms["base"]})
    prepare(without)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="low-rank adapters need the PEFT library"):
        lora.peft_library()


def two_sets(folder: Path) -> StudyResult:
    """An arm that gains 1 m on the target and loses 2 m on the source; one seed, costs written by the training."""
    study = small_study(folder, "{none: {}, full: {note: all}}", seeds="[0]")
    states = []
    for run in plan_runs(study, folder / "out"):
        run.train_folder.mkdir(parents=True)
        counts = {"trainable": 1234567, "total": 7434832}
        (run.train_folder / "environment.json").write_text(json.dumps({"parameters": counts}))
        states.append(RunState(run=run, trained=True, evaluated={"target": "", "source": ""}))
    outcomes = []
    for name, by_arm in {"target": {"none": 5.0, "full": 4.0}, "source": {"none": 2.0, "full": 4.0}}.items():
        found = {(arm, 0): result(folder / name / arm, lambda s, e=error: e) for arm, error in by_arm.items()}
        outcomes.append(study_outcome(study, name, found, resamples=50))
    return StudyResult(study=study, folder=folder, states=tuple(states), outcomes=tuple(outcomes))


def test_gain_and_forgetting_stand_side_by_side(tmp_path):
    made = two_sets(tmp_path)
    head, none, full = overview_lines(made)
    assert head == ["", "target", "difference", "source", "difference"]
    assert (none[0], none[2], none[4]) == ("none", "–", "–")
    assert full[0] == "full"
    assert full[1] == "4"  # one scenario: its interval has no width
    assert full[2] == "-1.00"
    assert full[4] == "+2.00"
    for text in (study_text(made), study_markdown(made), write_page(made).read_text()):
        assert "on each set of samples" in text.replace("\\", "")
    alone = dataclasses.replace(made, outcomes=made.outcomes[:1])
    assert "on each set of samples" not in study_text(alone)


def test_trained_parameters_stand_in_the_tables(tmp_path):
    made = two_sets(tmp_path)
    head, line, _ = cost_lines(made)
    assert dict(zip(head, line, strict=True))["trainable"] == "1,234,567"
    assert dict(zip(head, line, strict=True))["of"] == "7,434,832"
    run = study_json(made)["runs"][0]
    assert (run["trainable"], run["parameters"]) == (1234567, 7434832)
    (made.states[0].run.train_folder / "environment.json").write_text(
        "{}"
    )  # of a training before they were written
    assert cost_lines(made)[1][1:3] == ["–", "–"]


def test_what_the_transfer_study_compares(monkeypatch):
    monkeypatch.chdir(ROOT)  # weights and contracts are named from there
    monkeypatch.delenv("COOP3D_SYNTH_SMALL_ROOT", raising=False)
    study = read_study(TRANSFER)
    assert study.against == "none"
    configs = {name: composed(study, arm) for name, arm in study.arms.items()}
    weights = {name: c.model.model_config.pretrained_checkpoint_path for name, c in configs.items()}
    assert weights.pop("scratch") is None
    assert set(weights.values()) == {"weights/coop3d_small_synth_v1.pth"}
    assert Path("weights/coop3d_small_synth_v1.pth").is_file()
    presets = {name: c.preset.name for name, c in configs.items() if name not in ("none", "scratch")}
    assert all(name == preset for name, preset in presets.items())
    shipped = {p.stem for p in (ROOT / "configs" / "preset").glob("*.yaml")}
    assert set(presets) == shipped
    lengths = {n: c.train_params.epochs * c.train_params.steps_per_epoch for n, c in configs.items()}
    assert lengths.pop("none") == 1
    assert set(lengths.values()) == {study.budget.steps}
    assert configs["none"].train_params.lr == 0  # AdamW's decay counts the rate, too: nothing moves
    assert all(c.train_params.lr > 0 for name, c in configs.items() if name != "none")
    for name, arm in study.arms.items():
        if name != "none":
            rate = f"{configs[name].train_params.lr:.0e}".replace("e-0", "e-")
            assert rate in arm.note  # every arm's note says its rate


def test_the_transfer_study_scores_each_domain_where_it_lies(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COOP3D_SYNTH_SMALL_ROOT", raising=False)
    monkeypatch.delenv("COOP3D_SYNTH_OUTSKIRTS_ROOT", raising=False)
    study = read_study(TRANSFER)
    config = composed(study, study.arms["full"])
    target, source = study.evaluation.contracts
    assert build(config, "machine.synthetic").domain == "outskirts"
    assert target.overrides == ()
    moved = overridden(OmegaConf.to_container(config, resolve=False, enum_to_str=True), source.overrides)
    towns = compose("train", ["machine=synth_small", *study.base[1:]]).machine
    for key in ("opv2v_images_root", "opv2v_depth_root", "panorama_cache_root"):
        assert moved.machine[key] == towns[key] != config.machine[key]
    assert moved.dataset.test.source.cache_root == towns.panorama_cache_root


def test_the_script_explains_itself():
    shown = subprocess.run(
        ["bash", str(ROOT / "bash_scripts" / "transfer.sh"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0
    for word in ("run_study.py", "COOP3D_STUDY_DIR", "COOP3D_SYNTH_OUTSKIRTS_ROOT", "--only"):
        assert word in shown.stdout
