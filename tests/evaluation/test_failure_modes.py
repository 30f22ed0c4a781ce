"""Each kind of failure shows in the metric meant to catch it, nothing is dropped in silence, and perfect is perfect."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_views import perfect_prediction, random_prediction, random_targets

from coop3d.evaluation import (
    Evaluator,
    better,
    evaluate_batch,
    measured_trajectories,
    read_per_frame_csv,
    read_per_sample_csv,
    score_batch,
    summarise,
)
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets


def keys(B, V):
    return [[SampleKey("town", f"car{v}", f"{b:06d}") for v in range(V)] for b in range(B)]


@pytest.fixture(scope="module")
def targets() -> ViewTargets:
    """Five vehicles, ranges in every band, some vehicles in every distance bucket that matters."""
    targets = random_targets(B=3, V=5, H=16, W=24)
    T = targets.T_ref_view.clone()
    T[:, 1:, :3, 3] *= 2
    return replace(targets, T_ref_view=T, range_m=5 + (targets.range_m - 5) * 10)


@pytest.fixture(scope="module")
def perfect(targets) -> FactoredPrediction:
    return perfect_prediction(targets)


def summary(prediction, targets):
    evaluator = Evaluator(points=True)
    evaluator.update(prediction, targets, keys(*targets.range_m.shape[:2]))
    return evaluator.summary()


WORST_OF_PERFECT = {  # absolute tolerances; everything else is exact to 1e-9
    "deg": 1e-4, "trajectory": 1e-4, "chamfer": 1e-4, "accuracy": 1e-4, "completeness": 1e-4,
}  # fmt: skip


def test_a_perfect_prediction_is_perfect_everywhere(targets, perfect):
    """Every number that has a best value has it; those left undefined are listed one by one."""
    pytest.importorskip("evo")
    T_world = np.broadcast_to(np.eye(4), (3, 4, 4))
    rows, samples = score_batch(perfect, targets, keys(3, 5), points=True, T_world_ref=T_world.copy())
    tracks, _ = measured_trajectories(rows, samples)
    s = summarise(rows, samples, tracks)
    undefined = set()
    for key, value in s.items():
        direction = better(key)
        if direction is None or key.startswith("gain"):
            continue
        if math.isnan(value):
            undefined.add(key)
            continue
        best = 1.0 if direction == "higher" or key.startswith("scale/") else 0.0
        tolerance = next((t for part, t in WORST_OF_PERFECT.items() if part in key), 1e-9)
        assert value == pytest.approx(best, abs=tolerance), key
    empty = {k.removesuffix("/count") for k in s if k.endswith("m/count") and s[k] == 0}
    assert {k for k in undefined if not k.startswith(tuple(empty))} == {
        "confidence/ause",  # no errors, so no order of errors to know
        "confidence/spearman",
    }
    assert len(tracks) == 4
    assert s["registration/samples"] == 3
    assert s["suspect/exact_pose"] == s["suspect/exact_range"] == 1  # and suspiciously so


def test_sign_flip(targets, perfect):
    s = summary(replace(perfect, trans=-perfect.trans), targets)
    assert s["pose/sign_flip_rate"] == 1
    assert s["pose/direction_deg/median"] == pytest.approx(180)
    assert s["points/fscore_50cm"] < 0.7
    assert s["range/abs_rel"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_wrong_scale(targets, perfect, factor):
    s = summary(replace(perfect, scale=perfect.scale * factor), targets)
    for key in ("scale/error/median", "scale/pooled/p90"):
        assert s[key] == pytest.approx(max(factor, 1 / factor))
    assert s["range/far/abs_rel"] == pytest.approx(abs(factor - 1))
    assert s["range/far/abs_rel_aligned"] == pytest.approx(0, abs=1e-12)
    assert s["pose/sign_flip_rate"] == 0
    assert s["pose/convention/auc_30"] == 1  # the convention forgives scale
    assert s["registration/maa"] == pytest.approx(1)  # so does registration
    assert s["points/fscore_50cm"] < 0.5


def test_all_zero_mask(targets, perfect):
    s = summary(replace(perfect, mask_logits=torch.full_like(perfect.mask_logits, -5)), targets)
    assert s["mask/iou"] == s["mask/recall"] == 0
    assert math.isnan(s["mask/precision"])
    assert s["points/fscore_50cm"] == s["points/bev_iou"] == 0
    assert s["points/empty_predictions"] == 3
    assert s["points/completeness_m"] == s["points/accuracy_m"] == 5


def test_all_one_mask(targets, perfect):
    s = summary(replace(perfect, mask_logits=torch.full_like(perfect.mask_logits, 5)), targets)
    assert s["mask/ambiguous_iou"] == 0
    assert s["mask/recall"] == 1
    assert s["mask/precision"] < 1
    assert s["points/precision_50cm"] < 1  # surfaces in the sky
    assert s["points/recall_50cm"] == 1


def test_leaked_truth_is_suspicious_and_good_predictions_are_not(targets, perfect):
    g = torch.Generator().manual_seed(0)
    noise = 1 + 0.001 * torch.randn(perfect.distance.shape, generator=g, dtype=torch.float64)
    good = replace(perfect, distance=perfect.distance * noise, trans=perfect.trans + 0.01)
    s = summary(good, targets)
    assert s["suspect/exact_pose"] == 0
    assert s["suspect/exact_range"] < 0.02
    leaked_pose = summary(replace(good, trans=perfect.trans), targets)
    assert leaked_pose["suspect/exact_pose"] == 1
    leaked_range = summary(replace(good, distance=perfect.distance), targets)
    assert leaked_range["suspect/exact_range"] == 1
    assert (
        summary(perfect._map(lambda x: x.float()), targets)["suspect/exact_range"] == 1
    )  # float32 is enough


@pytest.mark.parametrize("field", ["distance", "trans", "mask_logits", "confidence", "quat_xyzw"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_stops_with_the_sample(targets, perfect, field, bad):
    values = getattr(perfect, field).clone()
    values[1].view(-1)[-1] = bad
    with pytest.raises(ValueError, match="town/car0/000001"):
        evaluate_batch(replace(perfect, **{field: values}), targets, keys(3, 5))


def test_reference_is_in_no_pose_number(targets, perfect):
    rows, samples = score_batch(random_prediction(targets).detach(), targets, keys(3, 5))
    without = summarise([r for r in rows if not r.is_reference], samples)
    s = summarise(rows, samples)
    pose = [k for k in s if k.startswith(("pose/", "suspect/exact_pose"))]
    assert len(pose) > 100
    np.testing.assert_equal({k: s[k] for k in pose}, {k: without[k] for k in pose})


def test_empty_everything_is_counted_or_unknown_never_a_crash(targets):
    targets = replace(
        targets,
        valid=torch.zeros_like(targets.valid),
        covered=torch.zeros_like(targets.covered),
        mask_known=torch.zeros_like(targets.mask_known),
        is_metric=torch.zeros_like(targets.is_metric),
    )
    s = summary(random_prediction(targets).detach(), targets)
    assert s["views"] == 15
    assert s["pose/count"] == 12
    counts = {k for k, v in s.items() if not math.isnan(v)}
    assert all(better(k) is None or k.startswith("pose/") or "empty" in k for k in counts)
    assert not math.isnan(s["pose/rotation_deg/mean"])  # angles need no metres
    assert math.isnan(s["pose/translation_m/mean"])
    assert math.isnan(s["pose/sign_flip_rate"])


def test_one_vehicle():
    targets = random_targets(B=2, V=1, H=6, W=8)
    s = summary(perfect_prediction(targets), targets)
    assert s["pose/count"] == s["pose/convention/pairs"] == s["registration/samples"] == 0
    assert math.isnan(s["pose/translation_m/median"])
    assert math.isnan(s["gain/fscore_50cm"])
    assert s["points/fscore_20cm"] == 1


def test_no_rows_at_all():
    s = Evaluator(points=True).summary()
    assert s["views"] == 0
    assert math.isnan(s["range/abs_rel"])


def test_files_hold_the_rows_exactly(tmp_path, targets):
    evaluator = Evaluator(points=True)
    mixed = replace(targets, is_metric=torch.tensor([True, False, True]))
    evaluator.update(random_prediction(mixed).detach(), mixed, keys(3, 5))
    evaluator.write(tmp_path)
    rows, samples = (
        read_per_frame_csv(tmp_path / "per_frame.csv"),
        read_per_sample_csv(tmp_path / "per_sample.csv"),
    )
    np.testing.assert_equal(repr(rows), repr(evaluator.rows))
    np.testing.assert_equal(repr(samples), repr(evaluator.samples))
    np.testing.assert_equal(summarise(rows, samples), evaluator.summary())


def test_types_of_columns_are_looked_up_once(tmp_path, targets, perfect, monkeypatch):
    """Per row that took four fifths of the time."""
    evaluator = Evaluator()
    evaluator.update(perfect, targets, keys(3, 5))
    evaluator.write(tmp_path)
    read_per_frame_csv(tmp_path / "per_frame.csv")
    monkeypatch.setattr(typing, "ForwardRef", lambda *_, **__: pytest.fail("types are parsed again"))
    assert len(read_per_frame_csv(tmp_path / "per_frame.csv")) == 15


def test_damaged_files_are_named_with_line_and_column(tmp_path, targets, perfect):
    evaluator = Evaluator()
    evaluator.update(perfect, targets, keys(3, 5))
    evaluator.write(tmp_path)
    path = tmp_path / "per_frame.csv"
    text = path.read_text().splitlines()
    path.write_text(
        "\n".join([*text[:2], text[2].replace(",True,", ",maybe,").replace(",False,", ",maybe,")])
    )
    with pytest.raises(ValueError, match=r"per_frame\.csv, line 3: column is_reference.*maybe"):
        read_per_frame_csv(path)
    path.write_text("\n".join([text[0].replace("abs_rel,", "absrel,", 1), *text[1:]]))
    with pytest.raises(ValueError, match=r"line 2: columns abs_rel are missing"):
        read_per_frame_csv(path)
    with pytest.raises(ValueError, match=r"vehicles, is_metric are missing; is this a file of SampleRow"):
        read_per_sample_csv(path)
