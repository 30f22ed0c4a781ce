"""Robustness end to end: pairs, counts, verdicts, resuming; shared sight against ray casting."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import analytic_panoramas
from support.analytic_panoramas import CAMERAS, batch, cast, pose
from support.opv2v_files import write_dataset
from support.score_rows import view_row
from support.scripts import run_script
from support.toy_evaluation import options, opv2v_dataset, train_toy

import coop3d.visualization
from coop3d.benchmark import evaluate_run
from coop3d.benchmark.figures import MODEL_COLOURS, VERDICT_COLOURS
from coop3d.benchmark.options import options_of
from coop3d.benchmark.robustness import (
    RobustnessOptions,
    cases_of,
    evaluate_robustness,
    listing,
    shared_sight,
    write_robustness_page,
)
from coop3d.benchmark.robustness.catalogue import Case, usual_names
from coop3d.benchmark.robustness.findings import by_sight, finding, views_sorted
from coop3d.benchmark.robustness.sight import bucket, read_sights, write_sights
from coop3d.conf import ConfigError, compose
from coop3d.datasets.disturb import Jpeg, RigRotation
from coop3d.datasets.opv2v import frame as opv2v_frame
from coop3d.evaluation import read_per_frame_csv

CASE = Case("noise5", "noise", 5.0, "levels", "noise")


# ---- names


def test_names_stand_for_disturbances_with_their_severity():
    jpeg, rig, again = cases_of(["jpeg42", "rig1.5deg", "jpeg42", "rig1deg"])
    assert (jpeg.disturbance, jpeg.severity) == (Jpeg(42), 42)
    assert rig.disturbance == RigRotation(1.5)
    assert again.disturbance == RigRotation(1)
    assert tuple(c.name for c in cases_of("all")) == usual_names() == tuple(c.name for c in cases_of([]))
    assert all(name in listing() for name in usual_names())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fog3", "'fog3' is unknown"),
        ("black_top", "unknown"),
        ("rig1", "unknown"),
        ("rig0deg", "disturbs nothing"),
        ("jpeg101", "expected 1 to 100"),
        ("jpeg2.5", "whole number"),
        ("vehicles8", "2 to 7"),
        ("sync30ms", "multiple of 50"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        cases_of([name])


def test_the_config_has_every_option():
    cfg = compose(
        "evaluate_robustness", ["checkpoint=x", "output_dir=y", "disturbances=[black_front,rig0.5deg]"]
    )
    assert {f.name for f in fields(RobustnessOptions)} - {"resamples"} <= set(cfg)
    assert options_of(cfg, RobustnessOptions).disturbances == ("black_front", "rig0.5deg")
    one = compose("evaluate_robustness", ["checkpoint=x", "output_dir=y", "disturbances=jpeg10", "batch=3"])
    assert options_of(one, RobustnessOptions) == RobustnessOptions(disturbances=("jpeg10",), batch=3)


# ---- answers


def rows(scenarios=10, **changes):
    return [view_row(scenario=f"town{s}", frame=f"{f:06d}", confidence_log=1.0, **changes)
            for s in range(scenarios) for f in range(2)]  # fmt: skip


def answer(disturbed, clean=None):
    return finding(CASE, clean or rows(), disturbed, {}, resamples=200)


def test_a_constant_change_is_found_exactly():
    found = answer(rows(translation_error_m=3.5, mask_tp=20))
    pose = found.scores["pose/translation_m/median"]
    assert (pose.a, pose.b, pose.difference, pose.low, pose.high) == (1.0, 3.5, 2.5, 2.5, 2.5)
    mask = found.scores["mask/iou"]
    assert mask.difference == pytest.approx(20 / 23 - 10 / 13)
    assert found.worse == ("pose/translation_m/median", "pose/recall_2m_2deg")
    assert (found.samples, pose.scenarios) == (20, 10)


@pytest.mark.parametrize(
    ("fall", "error", "knows"),
    [(0.5, 2.0, "yes"), (0.0, 2.0, "no"), (-0.5, 2.0, "no"), (0.005, 2.0, "no"), (0.5, 1.0, "unharmed")],
)
def test_confidence_knows_where_it_falls_while_errors_grow(fall, error, knows):
    disturbed = [replace(r, confidence_log=1.0 - fall) for r in rows(translation_error_m=error)]
    assert answer(disturbed).knows == knows


@pytest.mark.parametrize("scenarios", [1, 5])
def test_few_scenarios_answer_nothing(scenarios):
    found = answer(rows(scenarios, translation_error_m=9.0), rows(scenarios))
    assert found.knows == "unknown"
    assert found.worse == ()


def test_only_views_that_both_runs_have_are_compared():
    disturbed = rows(translation_error_m=2.0)[:10] + rows(agent="car2", view=2, translation_error_m=50.0)
    found = answer(disturbed)
    assert found.scores["pose/translation_m/median"].difference == 1.0
    assert found.scores["pose/translation_m/median"].count == 10
    assert found.own["pose/translation_m/median"].value == 50.0
    assert found.own["pose/translation_m/median"].count == 30
    with pytest.raises(ValueError, match="no view of the disturbed run"):
        answer(rows(agent="car9"))


def test_views_are_sorted_by_their_confidence():
    error = np.linspace(0.1, 0.9, 20)
    views = [
        replace(r, abs_rel=e, translation_error_m=1 - e, confidence_log=-e)
        for r, e in zip(rows(), error, strict=True)
    ]
    found = views_sorted([*views, replace(views[0], abs_rel=math.nan)])
    assert (found["range"].ause, found["range"].spearman) == (pytest.approx(0), pytest.approx(1))
    assert found["pose"].spearman < -0.8


def test_pictures_and_page_have_the_same_colours():
    css = (Path(coop3d.visualization.__file__).parent / "assets" / "report.css").read_text()
    assert f"td.loss {{ color: {VERDICT_COLOURS['worse']}" in css  # the page says: orange is worse
    assert VERDICT_COLOURS["better"] == MODEL_COLOURS[0]  # blue


# ---- shared sight


def brute_force_share(truth, a, b):
    """Points of view ``a`` that view ``b`` sees: rays cast from each of its cameras through the analytic street."""
    poses, T = analytic_panoramas.POSES, truth.targets
    points = T.points_ref[0, a][T.valid[0, a]].double().numpy()[::7]
    world = points @ poses[0][:3, :3].T + poses[0][:3, 3]
    seen = np.zeros(len(world), bool)
    for k, camera in enumerate(CAMERAS):
        origin = poses[b][:3, :3] @ camera + poses[b][:3, 3]
        away = world - origin
        distance = np.linalg.norm(away, axis=1)
        direction = away / distance[:, None]
        local = direction @ poses[b][:3, :3]
        mine = np.round(np.arctan2(local[:, 0], local[:, 2]) / (np.pi / 2)) % 4 == k
        inside = mine & (local[:, 1] < 0.62) & (np.abs(np.arcsin(local[:, 1])) < np.pi / 4)
        hit = cast(np.broadcast_to(origin, direction.shape), direction)[0]
        seen |= inside & (distance < 1.03 * hit + 0.2)
    return seen.mean()


def test_shared_sight_is_what_ray_casting_says(monkeypatch):
    """Of a vehicle ahead, and of one behind a house."""
    poses = [pose(0, 0, 0), pose(3, 22, 180), pose(-40, -20, 30)]
    monkeypatch.setattr(analytic_panoramas, "POSES", poses)
    truth = batch.__wrapped__(("641", "650", "659"))
    found = shared_sight(truth.targets)
    assert set(found) == {1, 2}
    for v, share in found.items():
        expected = (brute_force_share(truth, 0, v) + brute_force_share(truth, v, 0)) / 2
        assert share == pytest.approx(expected, abs=0.06)
    assert found[1] > 0.7
    assert found[2] < 0.5


def test_vehicles_behind_walls_share_nothing_and_twins_everything():
    truth = batch(("641", "650"), width=112)
    t = truth.targets
    twin = replace(t, **{f.name: getattr(t, f.name)[:, [0, 0]] for f in fields(t)
                         if getattr(t, f.name).ndim > 1})  # fmt: skip
    assert shared_sight(twin)[1] > 0.99
    away = t.T_ref_view.clone()
    away[0, 1, 1, 3] = 500.0  # far below the street
    assert shared_sight(replace(t, T_ref_view=away))[1] == 0
    unknown = replace(t, valid=torch.zeros_like(t.valid), mask_known=torch.zeros_like(t.valid))
    assert math.isnan(shared_sight(unknown)[1])


def test_buckets_and_the_rows_in_them(tmp_path):
    assert [bucket(x) for x in (0, 0.049, 0.05, 0.15, 0.29, 0.30, 1.0)] == [
        "0-5%", "0-5%", "5-15%", "15-30%", "15-30%", "30+%", "30+%",
    ]  # fmt: skip
    assert bucket(math.nan) == ""
    clean = rows(3)
    shares = {r.identity[:4]: x for r, x in zip(clean, (0.01, 0.2, 0.2, 0.9, math.nan), strict=False)}
    found, unknown = by_sight([*clean, view_row(is_reference=True)], shares, 100)
    assert {name: scores["pose/translation_m/median"].count for name, scores in found.items()} == {
        "0-5%": 1, "15-30%": 2, "30+%": 1,
    }  # fmt: skip
    assert unknown == 2  # not known, and not there
    write_sights(tmp_path / "sight.json", shares)
    assert repr(sorted(read_sights(tmp_path / "sight.json").items())) == repr(sorted(shares.items()))
    assert read_sights(tmp_path / "no.json") == {}


# ---- end to end

TOWN = ((0.0, 0.0, 0.0), (3.0, 18.0, 20.0), (-2.0, 40.0, 180.0))
NAMES = ("black_front", "rig2deg", "sync100ms", "vehicles3", "sight")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("robustness")
    images, depth = write_dataset(root, "test", scenarios=3, frames=2, positions=TOWN)
    return train_toy(root / "run", opv2v_dataset(images, depth, vehicles=2, pair_policy="nearest"))


@pytest.fixture(scope="module")
def whole(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return evaluate_robustness(run_dir, folder, some(NAMES))


def some(names, **changes):
    return RobustnessOptions(disturbances=names, num_workers=0, device="cpu", resamples=100, **changes)


def test_the_clean_run_is_the_ordinary_evaluation(run_dir, whole, tmp_path):
    evaluate_run(run_dir, tmp_path, options(baselines=()))
    ordinary, clean = tmp_path / "per_frame.csv", whole.folder / "robustness_rows" / "clean.csv"
    assert clean.read_bytes() == ordinary.read_bytes()


def test_every_disturbance_is_paired_and_counted(whole):
    content = json.loads((whole.folder / "robustness.json").read_text())
    assert (content["format"], content["version"]) == ("coop3d-robustness", 1)
    found = {d["name"]: d for d in content["disturbances"]}
    assert {n: d["samples"] for n, d in found.items()} == {
        "black_front": 6, "rig2deg": 6, "sync100ms": 3, "vehicles3": 6,
    }  # fmt: skip
    assert found["sync100ms"]["left_out"] == {"no frame 100 ms earlier of some other vehicle": 3}
    rows_of = {
        n: read_per_frame_csv(whole.folder / "robustness_rows" / f"{n}.csv") for n in ("clean", *found)
    }
    truth = {r.identity: r.pose_true for r in rows_of["clean"]}
    for name, some_rows in rows_of.items():
        assert all(r.pose_true == truth[r.identity] for r in some_rows if r.identity in truth)
        expected = {"sync100ms": 6, "vehicles3": 18}.get(name, 12)
        assert len(some_rows) == expected
    key = "range/abs_rel"
    paired = found["black_front"]["scores"][key]
    by_hand = [np.mean([r.abs_rel for r in rows_of[n]]) for n in ("clean", "black_front")]
    assert (paired["clean"], paired["disturbed"]) == pytest.approx(by_hand)
    assert paired["difference"] == pytest.approx(by_hand[1] - by_hand[0])
    assert paired["difference"] != 0
    with (whole.folder / "robustness.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [
        float(x["difference"]) for x in lines if (x["disturbance"], x["score"]) == ("black_front", key)
    ] == [paired["difference"]]
    assert (
        sum(s["views"]["count"] if "views" in s else s[key]["count"] for s in content["sight"].values()) == 6
    )
    table = (whole.folder / "table.txt").read_text()
    assert all(
        text in table
        for text in (*NAMES[:4], "By number of vehicles", "By shared sight", "3 samples left out")
    )


def test_what_is_done_is_not_repeated_and_more_may_join(run_dir, whole, tmp_path, monkeypatch):
    read = []
    load = opv2v_frame.load_yaml
    monkeypatch.setattr(opv2v_frame, "load_yaml", lambda path, keys: read.append(path) or load(path, keys))
    first = evaluate_robustness(run_dir, tmp_path, some(NAMES[:1], max_samples=2))
    assert len(read) == 2 * 2 * 2  # passes, samples, vehicles
    read.clear()
    again = evaluate_robustness(run_dir, tmp_path, some(NAMES[:1], max_samples=2))
    assert not read
    assert again.table == first.table
    evaluate_robustness(run_dir, tmp_path, some(("black_front", "jpeg10"), max_samples=2))
    assert len(read) == 4
    evaluate_robustness(run_dir, tmp_path, some(("black_front",), max_samples=2, seed=1))
    assert len(read) == 4 + 8  # other random numbers: nothing of before counts
    assert (tmp_path / "earlier-1" / "robustness.json").exists()


def test_what_cannot_be_is_refused_by_name_and_skipped_by_default(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"vehicles4: no sample: fewer than 4 vehicles \(6\)"):
        evaluate_robustness(run_dir, tmp_path, some(("vehicles4",)))
    toy = train_toy(tmp_path / "toy")
    with pytest.raises(ConfigError, match="needs a CooperativeDataset"):
        evaluate_robustness(toy, tmp_path / "out", some(("jpeg10",)))


def test_the_page_escapes_and_shows_everything(whole):
    page = write_robustness_page(replace(whole, head={**whole.head, "mode": "<b>mode"})).read_text()
    assert "&lt;b&gt;mode" in page
    assert "<b>mode" not in page
    assert all(name in page for name in (*NAMES[:4], "By shared sight"))
    assert page.count("<svg") == 4
    pictures = sorted(p.name for p in (whole.folder / "plots").glob("*.png"))
    assert pictures == [f"robustness_{n}.png" for n in ("black", "rig", "sync", "vehicles")]


def test_the_script_runs_a_contract(run_dir, whole, tmp_path):
    done = run_script(
        "evaluate_robustness.py", f"checkpoint={run_dir}", f"contract={whole.folder}/contract.json",
        f"output_dir={tmp_path}", "disturbances=[vehicles2,jpeg10]", "num_workers=0", "device=cpu", "report=false",
    )  # fmt: skip
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert content["contract"]["samples"] == 6
    same = content["disturbances"][0]["scores"]["range/abs_rel"]
    assert same["difference"] == 0  # two vehicles are the clean run
    assert "jpeg10" in done.stdout
