"""Rows of vehicles from rows of views, by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from support.score_rows import view_row

from coop3d.evaluation import BANDS, per_vehicle, summarise, views_per_vehicle
from coop3d.evaluation.rows import RangeBand
from coop3d.evaluation.vehicles import _MEANS, _SUMS

NOTHING = (RangeBand(),) * (len(BANDS) - 1)


def four_views(agent: str, errors, view: int, **changes):
    return [
        view_row(agent=agent, view=view + i, translation_error_m=e, **changes) for i, e in enumerate(errors)
    ]


def test_a_vehicle_scores_the_mean_of_its_views():
    reference = [
        view_row(agent="car0", view=i, is_reference=True, distance_bucket="", translation_error_m=math.nan)
        for i in range(4)
    ]
    rows = [
        *reference,
        *four_views("car1", (1.0, 2.0, 3.0, 10.0), 4),
        *four_views("car2", (math.nan, 5.0, math.nan, 7.0), 8),
    ]
    assert views_per_vehicle(rows) == 4
    found = per_vehicle(rows)
    assert [(r.agent, r.view, r.is_reference) for r in found] == [
        ("car0", 0, True), ("car1", 1, False), ("car2", 2, False),
    ]  # fmt: skip
    assert math.isnan(found[0].translation_error_m)
    assert found[0].distance_bucket == ""
    assert [r.translation_error_m for r in found[1:]] == [4.0, 6.0]
    assert found[1].mask_tp == 4 * rows[4].mask_tp
    assert found[1].valid_pixels == 4 * rows[4].valid_pixels
    assert summarise(found)["mask/iou"] == summarise(rows)["mask/iou"]
    assert per_vehicle(found) == found or repr(per_vehicle(found)) == repr(found)  # NaN != NaN


def test_a_sample_counts_its_own_vehicles():
    rows = [
        view_row(frame=frame, agent=a, view=v) for frame in ("000000", "000002") for v, a in enumerate("ab")
    ]
    assert per_vehicle(rows) == rows
    assert views_per_vehicle(rows) == 1
    assert views_per_vehicle([]) == 0
    assert per_vehicle([]) == []


def test_distance_and_bucket_are_those_of_the_mean():
    rows = [
        view_row(view=v, distance_m=d, distance_bucket=b)
        for v, (d, b) in enumerate([(14.0, "0-15m"), (18.0, "15-30m")])
    ]
    (found,) = per_vehicle(rows)
    assert (found.distance_m, found.distance_bucket) == (16.0, "15-30m")


def test_bands_are_pooled_over_pixels():
    few = RangeBand(10, *[1.0] * 8)
    many = RangeBand(30, *[2.0] * 8)
    rows = [view_row(view=0, bands=(few, *NOTHING)), view_row(view=1, bands=(many, *NOTHING))]
    (found,) = per_vehicle(rows)
    band = found.bands[0]
    assert band.pixels == 40
    assert band.abs_rel == pytest.approx((10 * 1 + 30 * 2) / 40)
    assert band.rmse_m == pytest.approx(((10 * 1 + 30 * 4) / 40) ** 0.5)
    assert found.bands[1].pixels == 0
    one, two = summarise(rows), summarise([found])
    for name in ("abs_rel", "rmse_m", "mae_aligned_m", "rmse_aligned_m"):
        assert one[f"range/near/{name}"] == pytest.approx(two[f"range/near/{name}"])


def test_every_number_of_a_row_is_taken_care_of():
    """A score added later must say how views of a vehicle are joined."""
    kept = {
        "scenario", "agent", "frame", "reference_agent", "view", "is_reference", "distance_bucket", "bands",
        "pose_pred", "pose_true",
    }  # fmt: skip
    assert {f.name for f in fields(view_row())} == {*_MEANS, *_SUMS, *kept}
