"""Comparing runs: no winner by chance, no silent mix of contracts, scores and advice by hand."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.random_views import perfect_prediction, random_prediction, random_targets
from support.score_rows import view_row
from support.scripts import run_script

from coop3d.benchmark import EntrantResult, Result, read_result, write_report, write_result
from coop3d.benchmark.compare import compare_results, stopping_advice, weighted_scores
from coop3d.benchmark.compare_page import comparison_text, write_comparison
from coop3d.benchmark.journal import Scored
from coop3d.benchmark.plots import all_plots, radar_values
from coop3d.benchmark.report import ranked_samples
from coop3d.benchmark.results import entrant_result, summarised
from coop3d.benchmark.scenes import extremes
from coop3d.benchmark.views import described_views
from coop3d.evaluation import SampleRow, ViewRow, score_batch
from coop3d.evaluation.contracts import ContractError
from coop3d.evaluation.rows import NO_BANDS, PointScores, RangeBand
from coop3d.types import SampleKey

# exchanging runs whose errors are constant tells nothing of medians
KEYS = ("pose/translation_m/mean", "pose/translation_m/median", "range/abs_rel", "mask/iou")
EVIL = "<script>alert(1)</script>"


@cache
def random_scores(samples: int) -> list[tuple[tuple[ViewRow, ...], tuple[SampleRow, ...]]]:
    """Rows of random predictions for two vehicles in one of 10 scenarios after the other."""
    found = []
    for i in range(samples):
        keys = [[SampleKey(f"town{i % 10}", str(v), f"{i:06d}") for v in range(2)]]
        targets = random_targets(seed=i, B=1, V=2)
        rows, parts = score_batch(random_prediction(targets, seed=i), targets, keys)
        found.append((tuple(rows), tuple(parts)))
    return found


def entrant(
    name: str, worse_m: float = 0.0, noise_m: float = 0.0, samples: int = 40, **changes
) -> EntrantResult:
    """A model whose translation error is 10 m (+ what is asked for) in each of 10 scenarios."""
    spread = np.random.default_rng(7).uniform(0.5, 2.0, 10)
    scored = []
    for i, (rows, parts) in enumerate(random_scores(samples)):
        error = 10.0 + worse_m + noise_m * spread[i % 10] * (-1) ** (i // 10)  # no better and no worse
        rows = tuple(r if r.is_reference else replace(r, translation_error_m=error) for r in rows)
        scored.append(Scored(entrant=name, sample=str(i), rows=rows, samples=parts))
    checkpoint = {"path": f"/runs/{EVIL}/checkpoint.pth", "sha256": "0" * 64, "step": 10}
    made = entrant_result(name, "checkpoint", "images", scored, checkpoint)
    return replace(made, **changes)


def result(folder: Path, *entrants: EntrantResult, sha: str = "a" * 64) -> Result:
    head = {
        "created": "today", "mode": "cooperative panoramas", "bad_samples": [],
        "contract": {"name": "town-v1", "sha256": sha, "split": "test", "samples": 40, "pair_policy": "first",
                     "max_distance_m": None, "is_file": True},
        "code": {"revision": "abc", "dirty": False},
        "environment": {"platform": "here", "gpus": [], "world_size": 1},
    }  # fmt: skip
    return Result(folder=folder, head=head, entrants=entrants)


def test_a_winner_only_where_the_paired_interval_excludes_zero(tmp_path):
    a = result(tmp_path / "a", entrant("model"))
    worse = result(tmp_path / "b", entrant("model", worse_m=0.5))
    found = compare_results([a, worse], KEYS, resamples=500)
    assert [e.name for e in found.entrants] == ["a", "b"]
    assert found.winners == {"pose/translation_m/mean": "a"}
    pair = found.differences["b"]["pose/translation_m/median"]
    assert (pair.difference, pair.low, pair.high) == pytest.approx((0.5, 0.5, 0.5))
    noisy = result(tmp_path / "c", entrant("model", noise_m=1.0))
    chance = compare_results([a, noisy], KEYS, resamples=500)
    assert chance.winners == {}  # their medians differ, but by chance
    assert compare_results([worse, a, noisy], KEYS, resamples=500).winners == {}  # a is not certain against c


def test_few_scenarios_have_no_winner(tmp_path):
    def towns(count: int, worse_m: float) -> EntrantResult:
        made = entrant("model", worse_m=worse_m)
        return replace(made, rows=tuple(r for r in made.rows if int(r.scenario[4:]) < count))

    for count, winners in ((5, {}), (6, {"pose/translation_m/mean": "a"})):
        runs = [result(tmp_path / n, towns(count, worse)) for n, worse in (("a", 0.0), ("b", 0.5))]
        found = compare_results(runs, KEYS, resamples=200)
        assert found.winners == winners
        assert bool(winners) == (not found.warnings)
        assert bool(winners) == (
            'class="win"' in write_comparison(found, runs, tmp_path / "page").read_text()
        )


def test_scores_of_different_pixels_have_no_winner(tmp_path):
    a = result(tmp_path / "a", entrant("model"))
    worse = entrant("model", worse_m=0.5)
    rows = [replace(r, abs_rel=r.abs_rel + 1) for r in worse.rows]
    same = result(tmp_path / "b", replace(worse, rows=tuple(rows)))
    found = compare_results([a, same], KEYS, resamples=200)
    assert found.winners == {"pose/translation_m/mean": "a", "range/abs_rel": "a"}
    four = [replace(r, view=4 * r.view + i) for r in rows for i in range(4)]
    found = compare_results(
        [a, result(tmp_path / "b", replace(worse, rows=tuple(four)))], KEYS, resamples=200
    )
    assert found.winners == {"pose/translation_m/mean": "a"}
    assert found.differences["b"]["range/abs_rel"].difference == pytest.approx(1)  # shown all the same
    sparse = [replace(r, valid_pixels=r.valid_pixels // 2) for r in rows]  # e.g. LiDAR instead of dense depth
    runs = [a, result(tmp_path / "b", replace(worse, rows=tuple(sparse)))]
    found = compare_results(runs, KEYS, resamples=200)
    assert found.winners == {"pose/translation_m/mean": "a"}
    assert "OTHER PIXELS OR TRUTH than in a: b (other pixels have a true range)" in found.warnings[0]
    (line,) = re.findall("<tr[^>]*><th>AbsRel<.*?</tr>", differences_of(found, runs, tmp_path))
    assert "<td " in line
    assert not re.search('class="(win|loss)"', line)


def panoramas(**changes) -> dict:
    """The config of an evaluation, reduced to what its views are."""
    camera = {"_target_": "coop3d.geometry.EquirectangularCamera", "width": 56, "height": 14}
    source = {"_target_": "coop3d.datasets.panorama_source", "camera": camera, **changes}
    return {"dataset": {"test": {"source": source}}}


def test_the_same_pixels_with_another_truth_have_no_winner(tmp_path):
    """Each kind of panorama measures range from another place, at as many pixels."""
    rig = described_views(panoramas(), "test")
    a = result(tmp_path / "a", entrant("model", views=rig))
    worse = entrant("model", worse_m=0.5)
    worse = replace(worse, rows=tuple(replace(r, abs_rel=r.abs_rel + 1) for r in worse.rows))
    for changes, why in [
        ({"kind": "central_infinite"}, "kind central_infinite instead of rig"),
        ({"centre": "rig_centroid"}, "centre rig_centroid instead of lidar"),
    ]:
        views = described_views(panoramas(**changes), "test")
        found = compare_results([a, result(tmp_path / "b", replace(worse, views=views))], KEYS, resamples=200)
        assert found.winners == {"pose/translation_m/mean": "a"}
        assert f"OTHER PIXELS OR TRUTH than in a: b ({why})" in found.warnings[0]
    elsewhere = described_views(panoramas(kind="rig", panoramas="cache", cache_root="/fast"), "test")
    for views in (elsewhere, {}):  # the same panoramas from a cache; not known
        found = compare_results([a, result(tmp_path / "b", replace(worse, views=views))], KEYS, resamples=200)
        assert found.winners == {"pose/translation_m/mean": "a", "range/abs_rel": "a"}


def test_results_say_what_was_scored_and_of_earlier_ones_the_config_does(tmp_path):
    views = described_views(panoramas(kind="central"), "test")
    assert views == {
        "views": "panoramas", "kind": "central", "centre": "lidar", "projection": "EquirectangularCamera",
        "cameras": ["camera0", "camera1", "camera2", "camera3"], "width": 56, "height": 14, "vfov_deg": 90.0,
        "elevation_center_deg": 0.0,
    }  # fmt: skip
    written = result(tmp_path / "r", entrant("model", views=views))
    written.head["config"], written.head["options"] = panoramas(kind="central"), {"frames_json": "x.json"}
    write_result(written)
    assert read_result(tmp_path / "r").entrants[0].views == views
    path = tmp_path / "r" / "metrics.json"
    content = json.loads(path.read_text())
    del content["entrants"][0]["views"]
    path.write_text(json.dumps(content))
    assert read_result(tmp_path / "r").entrants[0].views == views


def test_checkpoints_with_other_views_win_no_column_of_pixels(tmp_path):
    """One call, checkpoints whose configs make other panoramas of the same samples."""
    rig, other = ({"kind": kind} for kind in ("rig", "central"))
    runs = [entrant("a", views=rig), replace(entrant("b", worse_m=-0.5), views=other)]
    warned = write_report(result(tmp_path, *runs)).read_text()
    assert "OTHER PIXELS OR TRUTH than in a: b (kind central instead of rig)" in warned
    alike = write_report(result(tmp_path, runs[0], replace(runs[1], views=rig))).read_text()
    assert "OTHER PIXELS" not in alike
    columns = [e.partition("</table>")[0].count('class="best"') for e in (warned, alike)]
    assert columns == [6, 11]  # those of poses, all


def test_gains_compare_only_where_they_mean_the_same(tmp_path):
    gain = "gain_filtered/fscore_50cm"

    def with_gain(value: float, alone: bool) -> EntrantResult:
        made = entrant("model")
        clouds = {
            "points_filtered": PointScores(fscore_50cm=value),
            "points_filtered_alone": PointScores(fscore_50cm=0.1),
        }
        return replace(made, samples=tuple(replace(s, **clouds) for s in made.samples), alone=alone)

    for alone, winners in ((False, {gain: "b"}), (True, {})):
        runs = [result(tmp_path / "a", with_gain(0.3, False)), result(tmp_path / "b", with_gain(0.6, alone))]
        found = compare_results(runs, [gain], {gain: 1.0}, resamples=200)
        assert found.winners == winners
        assert found.best == ("" if alone else "b")
        assert any("OTHER GAIN: b against" in w for w in found.warnings) is alone
        assert ("no best: no weighted score" in comparison_text(found)) is alone
        page = write_comparison(found, runs, tmp_path / "page").read_text()
        assert ('class="win"' in page) is not alone
    written = with_gain(0.6, True)
    write_result(result(tmp_path / "r", written, replace(written, name="base", kind="trivial", alone=False)))
    assert [e.alone for e in read_result(tmp_path / "r").entrants] == [True, False]


def differences_of(found, runs, folder) -> str:
    return write_comparison(found, runs, folder / "page").read_text().partition("Differences")[2]


def test_names_are_short_and_shares_differ_in_percentage_points(tmp_path):
    """Folders that all runs share at their end tell nothing apart."""
    runs = [
        result(tmp_path / "a" / "evaluation", entrant("model")),
        result(tmp_path / "b" / "evaluation", entrant("model", worse_m=100.0)),
    ]
    found = compare_results(runs, ["pose/recall_5m_5deg"], resamples=200)
    assert [e.name for e in found.entrants] == ["a", "b"]
    assert ">0 pp<small>p " in differences_of(found, runs, tmp_path)


def test_different_contracts_are_refused_or_said(tmp_path):
    a = result(tmp_path / "a", entrant("model"))
    b = result(tmp_path / "b", entrant("model", worse_m=1.0, samples=30), sha="b" * 64)
    with pytest.raises(ContractError, match=r"different contracts.*--allow-different-contracts"):
        compare_results([a, b], KEYS)
    found = compare_results([a, b], KEYS, allow_different_contracts=True, resamples=200)
    assert {len(e.samples) for e in found.entrants} == {30}
    assert "DIFFERENT CONTRACTS" in found.warnings[0]
    assert "20 views that not all runs scored were left out" in found.warnings[1]
    page = write_comparison(found, [a, b], tmp_path / "out").read_text()
    assert "DIFFERENT CONTRACTS" in page
    assert "DIFFERENT CONTRACTS" in comparison_text(found)


def test_photographs_that_share_a_pose_are_drawn_once(tmp_path):
    """Of a vehicle's four rows only the first has a pose error."""
    of_poses = [view_row(scenario=f"town{i}", translation_error_m=1.0 + i) for i in range(4)]
    rows = [
        row
        if camera == 0
        else replace(row, view=camera, translation_error_m=math.nan, rotation_error_deg=math.nan)
        for row in of_poses
        for camera in range(4)
    ]
    _, drawn = all_plots(result(tmp_path, entrant("model", rows=tuple(rows))))["recall"]
    shares = drawn.axes[0].lines[0].get_ydata()
    assert max(shares) == 1.0
    assert len(shares) == len(of_poses) + 2


def test_weighted_scores_by_hand():
    weights = {"pose/translation_m/median": 3.0, "mask/iou": 1.0}
    scores = weighted_scores(
        {
            "a": {"pose/translation_m/median": 2.0, "mask/iou": 0.9},
            "b": {"pose/translation_m/median": 4.0, "mask/iou": 0.95},
        },
        weights,
    )
    assert scores == pytest.approx(
        {"a": 1 / 4, "b": 3 / 4}
    )  # a: 0.1 / 0.05 = 2x in mask; b: 2x in translation
    assert weighted_scores(
        {"a": {"scale/error/median": 1.2}, "b": {"scale/error/median": 1.1}}
    ) == pytest.approx({"a": 1.0, "b": 0.0})


def test_stopping_advice():
    def advice(*scores: float) -> str:
        entrants = [
            entrant(str(i), samples=1, checkpoint={"step": 100 * (i + 1)}) for i in range(len(scores))
        ]
        return stopping_advice(entrants, {str(i): s for i, s in enumerate(scores)})

    assert "training longer may still help" in advice(1.0, 0.5, 0.0)
    assert "Best at step 100; the 2 later" in advice(0.0, 0.5, 0.7)
    assert "stop there" in advice(0.0, 0.5, 0.7)
    assert "one more checkpoint will tell" in advice(1.0, 0.0, 0.2)
    assert advice(1.0, 0.0) == ""


def checkpoints(*steps: tuple[str, int]) -> list[EntrantResult]:
    return [
        entrant(
            f"{run}{step}", samples=1, checkpoint={"path": f"/runs/{run}/train/c{step}.pth", "step": step}
        )
        for run, step in steps
    ]


def test_advice_and_curves_are_of_one_run_each(tmp_path):
    """Two seeds of an arm, each with steps of its own: no line leads from one to the other."""
    seeds = checkpoints(("a", 10), ("b", 20), ("a", 30), ("b", 40))
    scores = {"a10": 1.0, "b20": 0.5, "a30": 0.7, "b40": 0.0}
    assert stopping_advice(seeds, scores) == ""
    _, fig = all_plots(result(tmp_path, *seeds))["curves"]
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines] == [[10, 30], [20, 40]]
    assert [line.get_label() for line in lines] == ["a/train", "b/train"]
    more = checkpoints(("a", 50), ("b", 5))
    told = stopping_advice([*seeds, *more], {**scores, "a50": 0.0, "b5": math.nan})
    assert told.startswith("a/train: The last checkpoint (step 50) is the best")
    assert "b/train" not in told
    assert "curves" not in all_plots(result(tmp_path, *checkpoints(("a", 10), ("b", 20))))


def test_radar_counts_halved_errors():
    baseline = {"range/abs_rel": 0.4, "mask/iou": 0.6, "scale/error/median": 2.0, "range/rmse_m": 1.0}
    mine = {"range/abs_rel": 0.1, "mask/iou": 0.8, "scale/error/median": 2.0**0.5, "range/rmse_m": 100.0}
    found = radar_values(mine, baseline)
    assert found == pytest.approx({"AbsRel": 2.0, "mask IoU": 1.0, "scale": 1.0, "range RMSE": -3.0})


def test_entrants_whose_names_are_written_alike_keep_their_rows(tmp_path):
    names = ("lr-1/c", "lr_1/c", "lr.1/c", "lr 1 c 2", "LR-1/c")
    made = [entrant(name, worse_m=i, samples=2) for i, name in enumerate(names)]
    write_result(result(tmp_path, entrant("first", samples=2), *made))
    _, *back = read_result(tmp_path).entrants
    assert [e.name for e in back] == list(names)
    assert [e.rows[1].translation_error_m for e in back] == [10.0, 11.0, 12.0, 13.0, 14.0]
    files = [path.name.lower() for path in tmp_path.glob("per_frame*.csv")]
    assert len(set(files)) == 6
    assert "per_frame_lr_1_c.csv" in files


def test_pages_are_self_contained_and_escaped(tmp_path):
    here = result(tmp_path / "r", entrant(EVIL, noise_m=1.0), replace(entrant("base"), kind="trivial"))
    write_result(here)
    text = write_report(here).read_text()
    compared = compare_results([here, result(tmp_path / "s", entrant("model"))], KEYS, resamples=100)
    other = write_comparison(compared, [here], tmp_path / "cmp").read_text()
    for page in (text, other):
        assert EVIL not in page
        assert "alert(1)" in page or page is other
        assert "default-src 'none'" in page
        outside = [part.split('"')[0] for part in page.split("http")[1:]]
        assert all(
            "-equiv" in part or "w3.org" in part or "creativecommons" in part or "purl.org" in part
            for part in outside
        ), outside
        assert "src=" not in page
    assert text.count("<svg") >= 4
    assert len(list((tmp_path / "r" / "plots").glob("*.png"))) == text.count("<svg")
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))  # pictures of one page do not share definitions


def test_registration_is_shown_where_four_vehicles_are(tmp_path, without_plots):
    scored = []
    for i in range(4):
        vehicles = 5 if i < 3 else 3
        keys = [[SampleKey("town", str(v), f"{i:06d}") for v in range(vehicles)]]
        targets = random_targets(seed=i, B=1, V=vehicles)
        rows, parts = score_batch(perfect_prediction(targets), targets, keys)
        scored.append(Scored(entrant="model", sample=str(i), rows=tuple(rows), samples=tuple(parts)))
    made = entrant_result("model", "checkpoint", "images", scored)
    assert (made.summary["registration/samples"], made.summary["registration/maa"]) == (3, 1.0)
    page = write_report(result(tmp_path, made)).read_text()
    assert "Defined for 3 of 4 samples" in page
    assert "<th>mAA</th>" in page
    pairs = write_report(result(tmp_path, entrant("model"))).read_text()
    assert "Undefined. Defined for 0 of 40 samples" in pairs
    assert "<th>mAA</th>" not in pairs


def test_worst_samples_come_first():
    ranked = ranked_samples(entrant("model", noise_m=3.0))
    assert [s.badness for s in ranked] == sorted((s.badness for s in ranked), reverse=True)
    assert len(ranked) == 40
    assert ranked[0].page.startswith("scenes/town")


def test_samples_without_scores_are_neither_worst_nor_best():
    made = entrant("model", samples=6)
    rows = [
        replace(r, translation_error_m=math.nan, abs_rel=math.nan) if r.frame == "000004" else r
        for r in made.rows
    ]
    chosen = extremes(replace(made, rows=tuple(rows)), 6)
    assert len(chosen) == 5
    assert "000004" not in {s.frame for s in chosen}


def test_range_is_drawn_as_the_summary_has_it(tmp_path):
    """A view with three pixels in a band weighs as three pixels."""
    few, many = (RangeBand(n, *[error] * 8) for n, error in ((1, 1.0), (9, 0.0)))
    rows = [view_row(scenario=f"town{i}", bands=(band, *NO_BANDS[1:])) for i, band in enumerate((few, many))]
    made = summarised(entrant("model", rows=tuple(rows), samples=1), resamples=10)
    _, fig = all_plots(result(tmp_path, made))["range"]
    assert fig.axes[0].lines[0].get_ydata()[0] == pytest.approx(0.1)


def test_the_script_writes_table_page_and_csv(tmp_path):
    for name, worse in (("a", 0.0), ("b", 0.5)):
        write_result(result(tmp_path / name, entrant("model", worse_m=worse)))
    assert read_result(tmp_path / "a").entrants[0].summary["views"] == 80
    command = ["compare_runs.py", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out"]
    assert "best: a" in run_script(*command, "--keys", *KEYS).stdout
    with (tmp_path / "out" / "compare.csv").open() as file:
        rows = {(r["score"], r["run"]): r for r in csv.DictReader(file)}
    assert rows["pose/translation_m/mean", "a"]["winner"] == "True"
    assert float(rows["pose/translation_m/median", "b"]["difference"]) == pytest.approx(0.5)
    for extra, status, message in (
        (["--keys", "nonsense"], 1, "unknown summary keys nonsense"),
        (["--weights", "range/abs_rel=-1"], 2, "expected SCORE=WEIGHT"),
    ):
        assert message in run_script(*command, *extra, status=status).stderr
    lonely = run_script(*command[:2], tmp_path / "absent", status=1)
    assert "metrics.json: is missing" in lonely.stderr
