"""A study whose evaluations are written from made-up rows: everything but training and predicting is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from support.score_rows import sample_row, view_row

from coop3d.benchmark import EntrantResult, Result, write_result
from coop3d.benchmark.results import summarised
from coop3d.benchmark.study import Run, Study, plan_runs, read_study
from coop3d.benchmark.study.commands import evaluation_identity
from coop3d.benchmark.study.state import RunState

Errors = Callable[[str, int, int], float]  # arm, seed, scenario -> metres
BASE = "base: [machine=demo, dataset=opv2v_cyl_coop_demo, model=tiny, loss=cyl_loss, train_params=demo]\n"
HEAD = {
    "created": "today", "mode": "cooperative panoramas", "bad_samples": [],
    "contract": {"name": "town-v1", "sha256": "a" * 64, "split": "test", "samples": 12, "pair_policy": "first",
                 "max_distance_m": None, "is_file": True},
    "code": {"revision": "abc", "dirty": False},
    "environment": {"platform": "here", "gpus": [], "world_size": 1},
}  # fmt: skip


def study_file(folder: Path, text: str) -> Path:
    """A study file with the demo's base."""
    path = folder / "study.yaml"
    path.write_text(BASE + text)
    return path


def small_study(folder: Path, arms: str, seeds: str = "[0, 1, 2]") -> Study:
    """Arms as YAML."""
    budget = "budget: {steps: 40, validations: 2}\n"
    return read_study(study_file(folder, f"name: made-up\nseeds: {seeds}\n{budget}arms: {arms}\n"))


def result(
    folder: Path, error_m: Callable[[int], float], scenarios: int = 12, valid_pixels: int = 30
) -> Result:
    """An evaluation with one pair per scenario."""
    rows = [
        view_row(
            scenario=f"town{s:02d}", translation_error_m=error_m(s), valid_pixels=valid_pixels, abs_rel=0.1
        )
        for s in range(scenarios)
    ]
    samples = [sample_row(scenario=f"town{s:02d}") for s in range(scenarios)]
    made = EntrantResult(
        name="model", kind="checkpoint", inputs="images", rows=tuple(rows), samples=tuple(samples), seconds=0.1,
        checkpoint={"path": "/runs/x.pth", "sha256": "0" * 64, "step": 40},
    )  # fmt: skip
    made = summarised(made, resamples=10)
    return Result(folder=folder, head=HEAD, entrants=(made,))


def finished_runs(study: Study, folder: Path, error_m: Errors) -> list[RunState]:
    """Every run trained and evaluated, with logs."""
    states = []
    for run in plan_runs(study, folder):
        write_result(result(run.evaluation_folder("test"), lambda s, r=run: error_m(r.arm, r.seed, s)))
        write_log(run)
        state = RunState(run=run)
        state.begin("train")
        state.end(60.0 + run.seed, 0, 1.5)
        state.trained = True
        state.evaluated["test"] = evaluation_identity(study, None)
        state.write()
        states.append(state)
    return states


def write_log(run: Run) -> None:
    """Two validations, the second better, and one torn line."""
    run.train_folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "kind": "val",
            "step": step,
            "pose/translation_m/median": 20.0 - step / 4 + run.seed,
            "range/abs_rel": 0.5,
        }
        for step in (20, 40)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.train_folder / "log.jsonl").write_text(text + '{"kind": "val", "st')
