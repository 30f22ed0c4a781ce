"""Bootstrap and paired comparison against slow loops, exact enumeration and known distributions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from support.score_rows import sample_row, view_row

from coop3d.evaluation import (
    CERTAIN_SCENARIOS,
    HEADLINE,
    Comparison,
    Interval,
    best_of,
    better,
    bootstrap,
    common,
    compare,
    excludes_zero,
    score_table,
    shortest_warning,
    summarise,
    survives_permutation,
    verdict,
)
from coop3d.evaluation.estimators import Quantile, Ratio, Total
from coop3d.evaluation.labels import LABELS, Label, family_titles, is_share, titles
from coop3d.evaluation.statistics import FEW_SAMPLES, FEW_SCENARIOS


def random_rows(scenarios=6, seed=0, shift=0.0):
    """Scenarios of unequal length and level; some scores do not apply."""
    rng = np.random.default_rng(seed)
    rows, samples = [], []
    for k in range(scenarios):
        for frame in range(3 + 2 * k):
            samples.append(
                sample_row(scenario=f"town{k}", frame=f"{frame:06d}", scale_error=1 + rng.random())
            )
            for view in range(3):
                error = float(k + rng.exponential(2.0) + shift)
                rows.append(
                    view_row(
                        scenario=f"town{k}",
                        frame=f"{frame:06d}",
                        view=view,
                        translation_error_m=error,
                        abs_rel=float(rng.random()) if rng.random() < 0.8 else math.nan,
                        mask_tp=int(rng.integers(0, 50)),
                        mask_fp=int(rng.integers(0, 50)),
                    )
                )
    return rows, samples


def difference(scenarios: int, low=0.1, high=0.3, p=0.01) -> Comparison:
    return Comparison(1.0, 1.2, 0.2, low, high, p, p, 100, scenarios, "")


def test_few_scenarios_make_nothing_certain():
    assert CERTAIN_SCENARIOS == 6
    assert not excludes_zero(difference(5))
    assert excludes_zero(difference(6))
    assert not excludes_zero(difference(6, low=-0.1))
    assert excludes_zero(difference(6, p=0.2))
    assert not survives_permutation(difference(6, p=0.05))
    assert survives_permutation(difference(6, p=0.04))
    assert not survives_permutation(difference(5, p=0.01))


@pytest.mark.parametrize("scenarios", [2, 3, 4, 5, 6, 8])
def test_runs_that_differ_by_chance_are_seldom_certain(scenarios):
    """Without limits the interval alone excludes 0 in 49, 25, 18, 18, 12 and 12 % of these."""
    rng, certain, trials = np.random.default_rng(scenarios), 0, 150
    towns = [view_row(scenario=f"town{s}") for s in range(scenarios)]
    for _ in range(trials):
        a, b = (
            score_table([replace(r, abs_rel=x) for r, x in zip(towns, rng.random(scenarios), strict=True)])
            for _ in range(2)
        )
        certain += survives_permutation(compare(a, b, ["range/abs_rel"], resamples=400)["range/abs_rel"])
    assert certain / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_verdicts_and_the_best_follow_the_direction_of_a_score():
    more, less = difference(9), difference(9, low=-0.3, high=-0.1)
    assert [verdict("mask/iou", d) for d in (more, less)] == ["better", "worse"]
    assert [verdict("range/abs_rel", d) for d in (more, less)] == ["worse", "better"]
    assert verdict("pose/count", more) == verdict("mask/iou", difference(5)) == ""
    assert verdict("mask/iou", difference(9, p=0.5), survives_permutation) == ""
    values = {"a": math.nan, "b": 0.4, "c": 0.6}
    assert (best_of("mask/iou", values), best_of("range/abs_rel", values)) == ("c", "b")
    assert best_of("mask/iou", {"a": math.nan}) == best_of("pose/count", values) == ""


def repeated(rows, names):
    """The rows of a resample: those of each drawn scenario, as often as it was drawn."""
    return [r for name in names for r in rows if r.scenario == name]


KEYS = ("pose/translation_m/median", "pose/translation_m/mean", "pose/translation_m/p90", "pose/recall_5m_5deg",
        "pose/15-30m/translation_m/median", "range/abs_rel", "mask/iou", "scale/pooled/median",
        "range/10-20m/rmse_m", "pose/sign_flip_rate", "pose/convention/auc_30", "pose/count")  # fmt: skip


def test_every_resample_is_the_summary_of_the_repeated_rows():
    rows, samples = random_rows()
    table = score_table(rows, samples)
    counts = np.random.default_rng(1).multinomial(6, [1 / 6] * 6, 10)
    counts[0] = [6, 0, 0, 0, 0, 0]
    for key in KEYS:
        resampled = table.scores[key].resample(counts)
        for value, times in zip(resampled, counts, strict=True):
            names = np.repeat(table.scenarios, times)
            expected = summarise(repeated(rows, names), repeated(samples, names))[key]
            assert value == pytest.approx(expected, rel=1e-12, nan_ok=True), key


def test_the_table_is_the_summary():
    rows, samples = random_rows()
    table = score_table(rows, samples)
    once = np.ones((1, len(table.scenarios)), np.int64)
    assert len(table.scores) > 200
    for key, score in table.scores.items():
        assert score.resample(once)[0] == pytest.approx(score.value(), nan_ok=True), key


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_weighted_quantile_against_numpy(q):
    rng = np.random.default_rng(0)
    values, scenario = rng.normal(size=57).round(1), rng.integers(0, 9, 57)
    counts = rng.integers(0, 4, (40, 9))
    got = Quantile(values, scenario, q).resample(counts)
    for value, times in zip(got, counts, strict=True):
        assert value == pytest.approx(np.quantile(np.repeat(values, times[scenario]), q), abs=1e-12)


def test_a_resample_without_rows_is_unknown_not_zero():
    counts = np.array([[1, 0], [0, 1]])
    one = np.zeros(3, np.int64)
    assert np.isnan(Quantile(np.arange(3.0), one, 0.5).resample(counts)[1])
    assert np.isnan(Ratio(np.ones(3), np.ones(3), one).resample(counts)[1])
    assert Total(np.ones(3), one).resample(counts).tolist() == [3, 0]


def test_intervals_of_a_mean_match_the_closed_form():
    """40 scenarios of one row each: the bootstrap's standard error is the standard error."""
    rng = np.random.default_rng(3)
    errors = rng.normal(10, 2, 40)
    rows = [view_row(scenario=f"s{k:02d}", translation_error_m=float(e)) for k, e in enumerate(errors)]
    interval = bootstrap(score_table(rows), ["pose/translation_m/mean"], resamples=20_000)[
        "pose/translation_m/mean"
    ]
    half = 1.96 * errors.std() / math.sqrt(40)
    assert interval.value == pytest.approx(errors.mean())
    assert interval.low == pytest.approx(errors.mean() - half, abs=0.06)
    assert interval.high == pytest.approx(errors.mean() + half, abs=0.06)


def test_frames_of_one_scenario_are_not_independent():
    """Ten scenarios of 100 equal frames say as much as ten frames."""
    rng = np.random.default_rng(4)
    levels = rng.normal(10, 2, 10)

    def width(frames):
        rows = [
            view_row(scenario=f"s{k}", frame=f"{f:06d}", translation_error_m=float(level))
            for k, level in enumerate(levels)
            for f in range(frames)
        ]
        i = bootstrap(score_table(rows), ["pose/translation_m/mean"])["pose/translation_m/mean"]
        return i.high - i.low

    assert width(100) == pytest.approx(width(1))


def test_intervals_cover_as_often_as_they_say():
    hits = 0
    for trial in range(200):
        rng = np.random.default_rng(100 + trial)
        rows = [
            view_row(scenario=f"s{k:02d}", frame=f"{f:06d}", translation_error_m=float(level + rng.normal()))
            for k, level in enumerate(rng.normal(10, 2, 25))
            for f in range(3)
        ]
        key = "pose/translation_m/mean"
        interval = bootstrap(score_table(rows), [key], resamples=400, seed=trial)[key]
        hits += interval.low <= 10 <= interval.high
    assert 0.88 <= hits / 200 <= 0.98  # percentile intervals of 25 clusters are a little narrow


def test_seeds():
    table = score_table(*random_rows())
    assert bootstrap(table, KEYS) == bootstrap(table, KEYS)
    assert bootstrap(table, KEYS[1:2], 50, seed=1) != bootstrap(table, KEYS[1:2], 50, seed=2)


def test_comparison_of_runs_that_differ_by_a_constant():
    rows, samples = random_rows(scenarios=10)
    worse = [replace(r, translation_error_m=r.translation_error_m + 0.25) for r in rows]
    a, b = score_table(rows, samples), score_table(worse, samples)
    c = compare(a, b, ["pose/translation_m/mean", "pose/translation_m/median", "range/abs_rel"])
    for key in ("pose/translation_m/mean", "pose/translation_m/median"):
        assert c[key].difference == pytest.approx(0.25)
        assert (c[key].low, c[key].high) == pytest.approx((0.25, 0.25))
        assert c[key].p_bootstrap < 0.01
    assert c["pose/translation_m/mean"].p_permutation == pytest.approx(2 / 2**10)
    same = c["range/abs_rel"]
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert same.p_bootstrap == same.p_permutation == 1
    back = compare(b, a, ["pose/translation_m/mean"])["pose/translation_m/mean"]
    assert back.difference == pytest.approx(-0.25)


def test_a_p_value_is_never_zero():
    """Of 40 scenarios only some assignments are tried; the observed one is always among them."""
    rows = [view_row(scenario=f"s{k:02d}") for k in range(40)]
    worse = [replace(r, translation_error_m=2.0) for r in rows]
    key = "pose/translation_m/mean"
    c = compare(score_table(rows), score_table(worse), [key], resamples=500)[key]
    assert c.p_permutation == pytest.approx(1 / 500)
    assert 0 < c.p_bootstrap < 0.01


def test_permutation_against_full_enumeration():
    rng = np.random.default_rng(5)
    rows, _ = random_rows(scenarios=5)
    other = [replace(r, translation_error_m=r.translation_error_m * rng.uniform(0.7, 1.2)) for r in rows]
    key = "pose/translation_m/median"
    c = compare(score_table(rows), score_table(other), [key])[key]
    differences = []
    for swap in product([False, True], repeat=5):
        swapped = {f"town{k}" for k in range(5) if swap[k]}
        mine = [b if a.scenario in swapped else a for a, b in zip(rows, other, strict=True)]
        theirs = [a if a.scenario in swapped else b for a, b in zip(rows, other, strict=True)]
        differences.append(summarise(theirs)[key] - summarise(mine)[key])
    extreme = np.abs(differences) >= abs(c.difference) - 1e-12
    assert c.p_permutation == pytest.approx(extreme.mean())
    assert 2 / 32 <= c.p_permutation < 1


@pytest.mark.parametrize("name", ["p_bootstrap", "p_permutation"])
def test_p_values_of_equal_models_are_spread_evenly(name):
    values = []
    for trial in range(120):
        rng = np.random.default_rng(trial)

        def run(rng=rng):
            return [
                view_row(scenario=f"s{k:02d}", frame=f"{f}", translation_error_m=float(rng.exponential()))
                for k in range(20)
                for f in range(2)
            ]

        key = "pose/translation_m/mean"
        values.append(getattr(compare(score_table(run()), score_table(run()), [key], 300)[key], name))
    assert 0.005 <= np.mean(np.array(values) < 0.05) <= 0.13
    assert 0.35 <= np.mean(values) <= 0.65


def test_different_samples_are_refused_and_common_ones_kept():
    rows, samples = random_rows()
    with pytest.raises(ValueError, match=r"2 rows are only in the first.*town0.*common"):
        compare(score_table(rows, samples), score_table(rows[2:], samples), KEYS)
    mine, theirs = common(rows, rows[2:])
    assert mine == theirs == rows[2:]
    assert common(samples[3:], samples)[1] == samples[3:]
    compare(score_table(mine), score_table(theirs), KEYS[:2])


def test_warnings_count_what_the_key_uses():
    few = score_table(*random_rows(scenarios=FEW_SCENARIOS - 1))
    many = score_table(*random_rows(scenarios=FEW_SCENARIOS + 4))
    key = "pose/translation_m/median"
    assert "only 7 scenarios" in bootstrap(few, [key])[key].warning
    assert bootstrap(many, [key])[key].warning == ""
    pooled = bootstrap(many, ["range/80+m/abs_rel"])["range/80+m/abs_rel"]  # no row has such pixels
    assert (pooled.count, pooled.scenarios) == (0, 0)
    assert f"only 0 values (fewer than {FEW_SAMPLES})" in pooled.warning
    assert math.isnan(pooled.value)
    assert math.isnan(pooled.low)
    assert math.isnan(compare(many, many, ["range/80+m/abs_rel"])["range/80+m/abs_rel"].p_permutation)


def test_mistakes_are_named():
    table = score_table(*random_rows())
    with pytest.raises(ValueError, match=r"pose/translation\b.*pose/translation_m/median"):
        bootstrap(table, ["pose/translation"])
    with pytest.raises(ValueError, match="no rows to resample"):
        bootstrap(score_table([]), ["views"])


def test_labels_are_of_scores_there_are_and_tell_them_apart():
    assert set(LABELS) <= set(score_table([], []).scores)
    for kind in Label._fields:
        names = [getattr(label, kind) for label in LABELS.values() if getattr(label, kind)]
        assert len(names) == len(set(names))
    assert (
        list(family_titles("points_filtered/", "gain_filtered/").values())[-1] == "gain in F by cooperation"
    )
    assert titles("mask/iou", "range/mae_m") == {"mask/iou": "mask IoU", "range/mae_m": "range/mae_m"}
    assert is_share("pose/15-30m/recall_1m_1deg")
    assert is_share("pose/sign_flip_rate")
    assert not is_share("mask/iou")


def test_headline_keys_exist_and_have_a_direction():
    table = score_table([], [])
    assert set(HEADLINE) <= set(table.scores)
    assert {better(k) for k in HEADLINE} == {"higher", "lower"}
    assert better("pose/translation_m/p90") == better("mask/iou").replace("higher", "lower") == "lower"
    assert better("points_filtered/bev_iou") == better("pose/15-30m/recall_1m_1deg") == "higher"
    assert better("range/near/delta_125_aligned") == better("registration/score") == "higher"
    assert (
        better("gain/completeness_m")
        == better("trajectory/ate_m/median")
        == better("rays/angle_deg")
        == "lower"
    )
    counts = {
        "views",
        "count",
        "pairs",
        "pixels",
        "samples",
        "sign_flip_pairs",
        "exact_pose",
        "exact_range",
        "log",
    }
    assert {k.rsplit("/", 1)[-1] for k in table.scores if better(k) is None} == counts


def test_the_shortest_warning_is_the_same_whatever_the_order():
    plain = Interval(0.0, 0.0, 0.0, count=9, scenarios=9, warning="")
    texts = (
        "only 98 values (fewer than 100)",
        "only 53 values (fewer than 100)",
        "only 7 scenarios; only 7 values",
    )
    some = [replace(plain, warning=text) for text in (*texts, "")]
    assert shortest_warning(some) == shortest_warning(some[::-1]) == texts[1]
    assert shortest_warning([replace(plain, warning="none counts", count=0), plain]) == ""
