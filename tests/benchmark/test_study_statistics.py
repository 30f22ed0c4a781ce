"""Seeds in intervals against Student's t, hand-made arms with known differences, verdicts, and every file written."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from support.doc_examples import DOCS, run_examples
from support.scripts import run_script
from support.study_files import finished_runs, result, small_study

from coop3d.benchmark import figures
from coop3d.benchmark.figures import to_png
from coop3d.benchmark.study import collect, plan_runs, read_study, study_outcome, write_study
from coop3d.benchmark.study.commands import evaluation_identity
from coop3d.benchmark.study.plots import _curves, arm_colours, curves_figure
from coop3d.benchmark.study.record import study_csv
from coop3d.benchmark.study.seeds import OverSeeds, holm, over_seeds, seed_weights
from coop3d.evaluation import bootstrap, compare
from coop3d.evaluation.contracts import ContractError
from coop3d.evaluation.estimators import Quantile, Ratio
from coop3d.evaluation.scores import ScoreTable

KEY, KEY_MEDIAN = "pose/translation_m/mean", "pose/translation_m/median"
EVIL = "<script>alert(1)</script>"


def table(values: np.ndarray) -> ScoreTable:
    """One seed: a mean over one row per scenario."""
    scenarios = tuple(f"s{i:02d}" for i in range(len(values)))
    score = Ratio(values, np.ones(len(values)), np.arange(len(values)))
    return ScoreTable(scenarios, {KEY: score}, frozenset((s,) for s in scenarios))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_without_scenario_noise_the_interval_is_students(seeds):
    values = np.random.default_rng(seeds).normal(5.0, 2.0, seeds)
    arm = over_seeds([table(np.full(9, v)) for v in values], [KEY])
    interval = bootstrap(arm, [KEY], resamples=60_000)[KEY]
    half = scipy.stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    assert interval.value == pytest.approx(values.mean())
    tolerance = 0.1 if seeds == 2 else 0.04  # quantiles of Cauchy's tails need many draws
    assert interval.high - interval.value == pytest.approx(half, rel=tolerance)
    assert interval.value - interval.low == pytest.approx(half, rel=tolerance)


def test_without_seed_noise_the_interval_is_that_of_one_seed():
    values = np.random.default_rng(0).normal(5.0, 2.0, 12)
    one = bootstrap(table(values), [KEY], resamples=500)[KEY]
    three = bootstrap(over_seeds([table(values)] * 3, [KEY]), [KEY], resamples=500)[KEY]
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert (three.count, three.scenarios) == (12, 12)


def test_weights_sum_to_one_and_one_seed_counts_as_it_is():
    np.testing.assert_allclose(seed_weights(100, 4).sum(axis=1), 1.0)
    assert (seed_weights(7, 1) == 1).all()
    np.testing.assert_array_equal(seed_weights(50, 3), seed_weights(50, 3))  # paired: both arms see the same


def test_differences_are_paired_by_seed():
    """Seeds differ by metres, an arm by 0.1 m in each: unpaired, nothing would be certain."""
    base = [np.full(9, v) for v in (3.0, 8.0, 14.0)]
    a = over_seeds([table(v) for v in base], [KEY])
    b = over_seeds([table(v + 0.1) for v in base], [KEY])
    pair = compare(a, b, [KEY], resamples=2000)[KEY]
    assert (pair.difference, pair.low, pair.high) == pytest.approx((0.1, 0.1, 0.1))
    crossed = over_seeds([table(v + 0.1) for v in base[::-1]], [KEY])
    wide = compare(a, crossed, [KEY], resamples=2000)[KEY]
    assert wide.low < -5 < 5 < wide.high


def test_a_paired_difference_by_hand():
    """Differences 1, 2, 3 of three seeds: 2 +- t(0.975, 2) * 1 / sqrt 3."""
    a = over_seeds([table(np.zeros(9))] * 3, [KEY])
    b = over_seeds([table(np.full(9, d)) for d in (1.0, 2.0, 3.0)], [KEY])
    pair = compare(a, b, [KEY], resamples=60_000)[KEY]
    half = 4.302653 / math.sqrt(3)
    assert (pair.difference, pair.low, pair.high) == pytest.approx((2.0, 2 - half, 2 + half), rel=0.05)
    p = 2 * scipy.stats.t.sf(2 * math.sqrt(3), 2)
    assert pair.p_bootstrap == pytest.approx(p, rel=0.05)


def test_permuting_arms_in_scenarios_draws_no_seed():
    rng = np.random.default_rng(1)
    seeds = [rng.normal(5, 1, 6) for _ in range(3)]
    a, b = (over_seeds([table(v + d) for v in seeds], [KEY]) for d in (0.0, 0.5))
    pair = compare(a, b, [KEY], resamples=100)[KEY]
    assert pair.p_permutation == pytest.approx(2 / 2**6)  # the largest of 64 exchanges, and its mirror image
    joined = a.scores[KEY].joined(b.scores[KEY], 6)
    counts = np.ones((5, 12), dtype=np.int64)
    mean = np.mean([*seeds, *(v + 0.5 for v in seeds)])
    np.testing.assert_allclose(joined.resample(counts), mean)


def test_scenarios_are_drawn_alike_for_all_seeds():
    """Slow twin, any statistic."""
    rng = np.random.default_rng(2)
    scenario = np.repeat(np.arange(4), 3)
    values = rng.normal(size=(3, 12))
    score = OverSeeds(tuple(Quantile(v, scenario, 0.5) for v in values))
    counts = rng.multinomial(4, [0.25] * 4, 20)
    weights = seed_weights(20, 3)
    for r in range(20):
        rows = np.repeat(np.arange(12), counts[r][scenario])
        slow = sum(weights[r, k] * np.median(values[k][rows]) for k in range(3))
        assert score.resample(counts)[r] == pytest.approx(slow)


@pytest.mark.parametrize(("seed_sd", "scenario_sd"), [(1.0, 0.1), (0.3, 1.0), (1.0, 1.0)])
def test_intervals_cover(seed_sd, scenario_sd):
    """Three seeds: a bootstrap of the seeds would cover about 70 % where they are what varies."""
    rng, hits, trials = np.random.default_rng(3), 0, 200
    for _ in range(trials):
        scenarios = rng.normal(0, scenario_sd, 12)
        values = [scenarios + rng.normal(0, seed_sd) for _ in range(3)]
        interval = bootstrap(over_seeds([table(v) for v in values], [KEY]), [KEY], resamples=400)[KEY]
        hits += interval.low <= 0 <= interval.high
    assert 0.9 <= hits / trials <= 0.995


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, math.nan, 0.6])[0] == pytest.approx(0.02)
    assert math.isnan(holm([math.nan])[0])
    assert holm([0.7, 0.9]) == [1.0, 1.0]


# ---- arms


def error(arm: str, seed: int, scenario: int) -> float:
    """10 m, seeds and scenarios differ; "better" is 1 m less, "same" differs by chance."""
    by_chance = 0.5 * (-1) ** (seed + scenario) if arm == "same" else 0.0
    return 10.0 + 0.2 * seed + 0.3 * scenario - (arm == "better") * (1.0 + 0.01 * seed) + by_chance


def outcome(study, error_m=error, **changes):
    cells = [(arm, seed) for seed in study.seeds for arm in study.arms]
    results = {c: result(study_folder(c), lambda s, c=c: error_m(*c, s), **changes) for c in cells}
    return study_outcome(study, "test", results, resamples=1000)


def study_folder(cell):
    return Path("/nowhere", *map(str, cell))


def test_arms_with_known_differences(tmp_path):
    study = small_study(tmp_path, "{base: {}, better: {}, same: {}}")
    found = outcome(study)
    arms = found.arms
    assert arms["base"].intervals[KEY].value == pytest.approx(10.0 + 0.2 + 0.3 * 5.5)
    assert arms["base"].spread(KEY) == pytest.approx(0.2)
    assert arms["base"].by_seed[2][KEY] == pytest.approx(10.4 + 0.3 * 5.5)
    assert arms["base"].differences == {}
    better = arms["better"].differences[KEY]
    assert better.paired.difference == pytest.approx(-1.01)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (better.paired.low, better.paired.high) == pytest.approx((-1.01 - half, -1.01 + half), rel=0.02)
    assert (better.verdict, better.is_significant, better.survives_holm) == ("better", True, True)
    assert arms["same"].differences[KEY].verdict == "unclear"
    p = [arms[a].differences[KEY].paired.p_bootstrap for a in ("better", "same")]
    assert [arms[a].differences[KEY].p_holm for a in ("better", "same")] == pytest.approx(holm(p))


def test_worse_and_against_another_arm(tmp_path):
    study = replace(small_study(tmp_path, "{base: {}, better: {}}"), against="better")
    found = outcome(study)
    assert found.arms["better"].differences == {}
    assert found.arms["base"].differences[KEY].verdict == "worse"
    assert found.arms["base"].differences[KEY].paired.difference == pytest.approx(1.01)


def test_one_seed_makes_nothing_certain(tmp_path):
    found = outcome(small_study(tmp_path, "{base: {}, better: {}}", seeds="[0]"))
    pair = found.arms["better"].differences[KEY]
    assert pair.paired.high < -0.9
    assert (pair.verdict, pair.is_significant) == ("unclear", False)
    assert any(w.startswith("one seed: ") for w in found.warnings)
    two = outcome(small_study(tmp_path, "{base: {}, better: {}}", seeds="[0, 1]"))
    assert any("only 2 seeds" in w for w in two.warnings)


def test_other_pixels_are_shown_but_not_compared(tmp_path):
    study = small_study(tmp_path, "{base: {}, kind: {}, worse: {}}")
    results = {
        (arm, seed): result(
            study_folder((arm, seed)),
            lambda s, a=arm: 10.0 - (a == "kind"),
            valid_pixels=20 if arm == "kind" else 30,
        )
        for arm in study.arms
        for seed in study.seeds
    }
    found = study_outcome(study, "test", results, resamples=200)
    assert found.arms["kind"].differences["range/abs_rel"].verdict == "not comparable"
    assert found.arms["kind"].differences[KEY].verdict == "better"
    assert found.arms["worse"].differences["range/abs_rel"].verdict == "unclear"  # no difference at all
    assert any(w.startswith("kind: range, scale, mask") for w in found.warnings)


def test_another_truth_at_the_same_pixels_is_not_compared(tmp_path):
    study = small_study(tmp_path, "{base: {}, kind: {}}")
    results = {
        (arm, seed): result(study_folder((arm, seed)), lambda s, a=arm: 10.0 - (a == "kind"))
        for arm in study.arms
        for seed in study.seeds
    }
    for (arm, seed), made in results.items():
        (model,) = made.entrants
        views = {"kind": "rig" if arm == "base" else "central_infinite"}
        results[arm, seed] = replace(made, entrants=(replace(model, views=views),))
    found = study_outcome(study, "test", results, resamples=200)
    assert found.arms["kind"].differences["range/abs_rel"].verdict == "not comparable"
    assert found.arms["kind"].differences[KEY].verdict == "better"


def test_missing_runs_are_said(tmp_path):
    study = small_study(tmp_path, "{base: {}, better: {}, gone: {}}")
    cells = [("base", 0), ("base", 1), ("base", 2), ("better", 1), ("better", 2)]
    results = {c: result(study_folder(c), lambda s, c=c: error(*c, s)) for c in cells}
    found = study_outcome(study, "test", results, resamples=200)
    assert found.arms["better"].differences[KEY].seeds == (1, 2)
    assert "of 3 seeds, some arms have fewer: better 2, gone 0" in found.warnings
    alone = study_outcome(study, "test", {("better", 1): results["better", 1]}, resamples=200)
    assert alone.arms["better"].differences == {}
    assert any("base, which arms are compared with, has no finished run" in w for w in alone.warnings)


def test_evaluations_of_other_settings_are_left_out(tmp_path, caplog):
    study = small_study(tmp_path, "{base: {}, better: {}}")
    states = finished_runs(study, tmp_path / "out", error)
    changed = replace(study, evaluation=replace(study.evaluation, inputs="images"))
    assert collect(changed, tmp_path / "out", states).outcomes == ()
    for state in [s for s in states if s.run.arm == "base"]:
        state.evaluated["test"] = evaluation_identity(changed, None)
    made = collect(changed, tmp_path / "out", states)
    assert list(made.outcomes[0].arms) == ["base"]
    assert "left out, scored with other settings: better/seed" in caplog.text


def test_other_samples_are_refused(tmp_path):
    study = small_study(tmp_path, "{base: {}, other: {}}", seeds="[0]")
    a, b = result(study_folder(("base", 0)), lambda s: 1.0), result(study_folder(("other", 0)), lambda s: 1.0)
    b = replace(b, head={**b.head, "contract": {**b.contract, "sha256": "b" * 64}})
    with pytest.raises(ContractError, match="different contracts"):
        study_outcome(study, "test", {("base", 0): a, ("other", 0): b})


def test_a_bound_score_is_higher_better(tmp_path):
    study = small_study(tmp_path, "{base: {}, better: {}}")
    found = outcome(study, lambda arm, seed, s: 0.5 if arm == "better" and s < 11 else 9.0)
    recall = found.arms["better"].differences["pose/recall_1m_1deg"]
    assert recall.paired.difference == pytest.approx(11 / 12)
    assert recall.verdict == "better"


# ---- files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    arms = f'{{base: {{}}, better: {{note: "{EVIL}|x"}}, same: {{budget: own, overrides: [train_params.lr=0.5]}}}}'
    study = small_study(folder, arms)
    states = finished_runs(study, folder, error)
    states[-1].begin("evaluate other")
    states[-1].end(1.0, 3, 0.5)
    (folder / "runs" / "same" / "seed2" / "evaluate.log").write_text(f"working\nValueError: {EVIL}\n")
    states[-1].fail("ended with status 3")
    made = collect(study, folder, states)
    text, page = write_study(made)
    return SimpleNamespace(folder=folder, study=study, result=made, text=text, page=page)


def test_study_json_holds_everything(written):
    content = json.loads((written.folder / "study.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert (content["format"], content["version"]) == ("coop3d-study", 1)
    assert set(content) == {
        "format", "version", "created", "study", "code", "environment", "runs", "results",
    }  # fmt: skip
    assert len(content["runs"]) == 9
    run = content["runs"][0]
    assert (run["arm"], run["seed"], run["steps"], run["train_seconds"]) == ("base", 0, 40, 60.0)
    assert run["peak_memory_gib"] == 1.5
    assert content["runs"][-1]["failures"]["evaluate other"]["lines"][-1] == f"ValueError: {EVIL}"
    found = content["results"]["test"]
    assert found["contract"]["sha256"] == "a" * 64
    score = found["arms"]["better"]["scores"]["pose/translation_m/median"]
    assert set(score["by_seed"]) == {"0", "1", "2"}
    assert score["low"] <= score["value"] <= score["high"]
    pair = found["arms"]["better"]["differences"]["pose/translation_m/median"]
    assert (pair["significant"], pair["verdict"]) == (True, "better")
    assert pair["difference"] == pytest.approx(-1.01)
    assert content["study"]["arms"]["same"]["own_budget"]


def test_study_csv_agrees_with_json(written):
    lines = list(csv.DictReader(io.StringIO(study_csv(written.result))))
    assert (written.folder / "study.csv").read_text() == study_csv(written.result)
    content = json.loads((written.folder / "study.json").read_text())["results"]["test"]["arms"]
    assert len(lines) == 3 * len(content["base"]["scores"])
    for line in lines:
        arm = content[line["arm"]]
        assert float(line["value"]) == pytest.approx(arm["scores"][line["score"]]["value"])
        if line["arm"] != "base":
            assert float(line["difference"]) == pytest.approx(arm["differences"][line["score"]]["difference"])
            assert line["verdict"] == arm["differences"][line["score"]]["verdict"]
    assert {line["own_budget"] for line in lines if line["arm"] == "same"} == {"True"}


def test_tables_are_readable(written):
    text = (written.folder / "table.txt").read_text()
    assert text == written.text
    lines = text.splitlines()
    assert lines[0] == "made-up: 3 arms, 3 seeds, 40 steps each"
    row = next(line for line in lines if line.startswith("better") and "-1.01" in line)
    assert "-1.01 [-1.0" in row
    assert "] **" in row
    assert "same (own budget)" in text
    assert "! OWN BUDGET: same did not train as long as the others" in text
    assert f"same/seed2, evaluate other: ended with status 3 (ValueError: {EVIL})" in text
    assert "61 " in next(line for line in lines[lines.index("Cost of a run") :] if line.startswith("base"))
    markdown = (written.folder / "table.md").read_text()
    assert EVIL not in markdown
    assert r"\<script\>alert(1)\</script\>\|x" in markdown
    table_lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in table_lines[:5]} == {table_lines[0].count("|")}


def test_page_and_pictures(written):
    page = written.page.read_text()
    assert EVIL not in page
    assert "alert(1)" in page
    assert "default-src 'none'" in page
    assert page.count("<svg") == 2
    assert 'class="win"' in page
    for name in ("curves.png", "forest_test.png"):
        assert (written.folder / name).read_bytes().startswith(b"\x89PNG")


def test_curves_are_means_over_seeds_of_whole_lines(written):
    steps, values = _curves(written.result.states, "pose/translation_m/median")["base"]
    assert steps == [20, 40]
    np.testing.assert_allclose(values, [[15, 10], [16, 11], [17, 12]])
    fig = curves_figure(written.result)
    first = fig.axes[0].lines[0]
    np.testing.assert_allclose(first.get_ydata(), [16, 11])
    band = fig.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (10, 17)


def test_panels_of_curves_stand_two_by_two_with_errors_on_log_scales(written):
    fig = curves_figure(written.result)
    titles = {ax.get_title(): ax.get_yscale() for ax in fig.axes if ax.get_visible()}
    assert titles.pop("mask IoU", "linear") == "linear"
    assert titles
    assert set(titles.values()) == {"log"}
    assert fig.axes[0].get_gridspec().ncols == min(2, len(titles) + 1)
    assert fig.get_size_inches()[0] <= 8  # at 160 dots per inch, 9 points are 15 pixels at a width of 900
    assert to_png(fig).startswith(b"\x89PNG")
    ticks = [text.get_text() for ax in fig.axes if ax.get_yscale() == "log" for text in ax.get_yticklabels()]
    assert "10" in ticks
    assert not any("mathdefault" in text for text in ticks)  # 10, not 10^1


def test_arms_look_different(tmp_path):
    arms = ", ".join(f"a{i}: {{}}" for i in range(20))
    looks = arm_colours(small_study(tmp_path, f"{{{arms}}}"))
    assert len(set(looks.values())) == 20


# ---- the documentation page


def test_the_page_of_studies_is_true(written, tmp_path):
    page = (DOCS / "studies.md").read_text()
    run_examples("studies.md", STUDY=written.folder / "study.yaml", FOLDER=written.folder)
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "wrap.yaml").write_text(example)
    study = read_study(tmp_path / "wrap.yaml")
    assert {run.steps for run in plan_runs(study, tmp_path)} == {480}
    for shipped in (DOCS.parent / "configs" / "studies").glob("*.yaml"):
        assert f"`{shipped.name}`" in page
    content = json.loads((written.folder / "study.json").read_text())
    arm = content["results"]["test"]["arms"]["better"]
    for holder in (
        content,
        content["runs"][0],
        arm,
        arm["scores"][KEY_MEDIAN],
        arm["differences"][KEY_MEDIAN],
    ):
        missing = [key for key in holder if f"`{key}`" not in page]
        assert not missing


def test_commands_of_the_page_are_accepted(monkeypatch, tmp_path):
    """The first is run as it stands; the second is the slow test of the smoke study."""
    page = (DOCS / "studies.md").read_text()
    commands = [
        shlex.split(line) for line in page.splitlines() if line.startswith("python scripts/run_study.py")
    ]
    assert len(commands) == 2
    assert commands[0][:-1] == commands[1]
    monkeypatch.chdir(DOCS.parent)
    arguments = [
        a if not a.startswith("output_dir=") else f"output_dir={tmp_path}/out" for a in commands[0][1:]
    ]
    assert (
        run_script(arguments[0].removeprefix("scripts/"), *arguments[1:]).stdout.count("scripts/train.py")
        == 4
    )
    assert not (tmp_path / "out").exists()


def test_chinese_names_are_drawn_where_a_font_has_them():
    """Matplotlib warns of every family that is missing, so only those there are named, after the Latin one."""
    assert figures._installed(("No Such Font", "DejaVu Sans Mono")) == ["DejaVu Sans Mono"]
    assert figures._STYLE["font.sans-serif"][0] == "DejaVu Sans"
