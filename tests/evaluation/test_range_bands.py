"""Range by band, pooled scale and ray angles against plain twins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.random_views import perfect_prediction, random_prediction, random_targets
from support.score_rows import scored

from coop3d.evaluation import BANDS, summarise
from coop3d.evaluation.rows import RANGE_EDGES_M

SCORES = ("abs_rel", "rmse_m", "mae_m", "delta_125")


def far_targets(**options):
    """Ranges from 5 to 150 m, so that every band has pixels."""
    targets = random_targets(B=2, V=2, H=12, W=20, **options)
    return replace(targets, range_m=5 + (targets.range_m - 5) * 14.5)


def plain(p, t):
    """Scores of one set of pixels, one after the other."""
    error = [abs(a - b) for a, b in zip(p, t, strict=True)]
    return (
        sum(e / b for e, b in zip(error, t, strict=True)) / len(t),
        math.sqrt(sum(e * e for e in error) / len(t)),
        sum(error) / len(t),
        sum(max(a / b, b / a) < 1.25 for a, b in zip(p, t, strict=True)) / len(t),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_views_and_bands_against_a_plain_twin(dtype):
    targets = far_targets(dtype=dtype)
    prediction = random_prediction(targets).detach()
    prediction = replace(prediction, distance=prediction.distance * 10)
    rows, _ = scored(prediction, targets)
    close = {"rel": 1e-9 if dtype == torch.float64 else 1e-5}
    pooled: dict[str, list] = {name: [[], [], []] for name in BANDS}
    for row, (b, v) in zip(rows, [(b, v) for b in range(2) for v in range(2)], strict=True):
        valid = targets.valid[b, v]
        p = prediction.range_m[b, v][valid].double().numpy()
        t = targets.range_m[b, v][valid].double().numpy()
        ratio = np.sort(p / t)[(len(t) - 1) // 2]
        assert row.scale_error == pytest.approx(max(ratio, 1 / ratio), **close)
        assert row.valid_pixels == len(t)
        assert [getattr(row, s) for s in SCORES] == pytest.approx(plain(p, t), **close)
        assert [getattr(row, s) for s in ("abs_rel_aligned", "rmse_aligned_m", "mae_aligned_m")] == (
            pytest.approx(plain(p / ratio, t)[:3], **close)
        )
        for k, name in enumerate(BANDS):
            inside = (t >= RANGE_EDGES_M[k]) & (t < RANGE_EDGES_M[k + 1])
            assert row.bands[k].pixels == inside.sum() > 0
            assert row.bands[k][1:4] == pytest.approx(plain(p[inside], t[inside])[:3], **close)
            assert row.bands[k].mae_aligned_m == pytest.approx(
                plain(p[inside] / ratio, t[inside])[2], **close
            )
            for collected, values in zip(pooled[name], (p, p / ratio, t), strict=True):
                collected.extend(values[inside])
    s = summarise(rows)
    groups = {name: pooled[name] for name in BANDS}
    for name, bands in (("near", BANDS[:2]), ("far", BANDS[2:])):
        groups[name] = [np.concatenate([pooled[band][k] for band in bands]) for k in range(3)]
    for name, (p, aligned, t) in groups.items():
        assert s[f"range/{name}/pixels"] == len(t)
        assert [s[f"range/{name}/{x}"] for x in SCORES[:3]] == pytest.approx(plain(p, t)[:3], **close)
        assert s[f"range/{name}/rmse_aligned_m"] == pytest.approx(plain(aligned, t)[1], **close)
        assert s[f"range/{name}/delta_125"] == pytest.approx(plain(p, t)[3], abs=2 / len(t))


def test_band_edges_are_half_open():
    targets = random_targets(B=1, V=1, H=1, W=6, valid_fraction=1.1)
    edges = torch.tensor([9.999, 10.0, 20.0, 40.0, 79.999, 80.0], dtype=torch.float64)
    targets = replace(targets, range_m=edges.reshape(1, 1, 1, 6))
    rows, _ = scored(perfect_prediction(targets), targets)
    assert [band.pixels for band in rows[0].bands] == [1, 1, 1, 2, 1]


def test_pooled_scale_is_one_median_over_all_views():
    """Views off by 2 and by 1/4, three times as many pixels in the first: 2 wins, no mean of medians."""
    targets = random_targets(B=1, V=2, H=4, W=4, valid_fraction=1.1)
    targets.valid[0, 1, 1:] = False
    perfect = perfect_prediction(targets)
    factor = torch.tensor([2.0, 0.25]).reshape(1, 2, 1, 1)
    rows, samples = scored(replace(perfect, distance=perfect.distance * factor), targets)
    assert [r.scale_error for r in rows] == pytest.approx([2, 4])
    assert samples[0].scale_error == pytest.approx(2)
    assert summarise(rows, samples)["scale/pooled/median"] == pytest.approx(2)
    assert summarise(rows, samples)["scale/error/median"] == pytest.approx(3)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 0.5, 90.0, 180.0])
def test_ray_angle_of_turned_rays(degrees):
    targets = random_targets(B=1, V=1, H=2, W=3)
    rays = targets.rays.numpy()
    side = np.cross(rays, [0.3, -0.5, 0.8])
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    turn = Rotation.from_rotvec(np.radians(degrees) * side.reshape(-1, 3))
    turned = torch.from_numpy(turn.apply(rays.reshape(-1, 3)).reshape(rays.shape))
    perfect = perfect_prediction(targets)
    rows, _ = scored(replace(perfect, predicted_rays=turned), targets)
    assert rows[0].ray_error_deg == pytest.approx(degrees, rel=1e-6, abs=1e-9)
    assert rows[0].abs_rel == pytest.approx(0, abs=1e-12)  # points still use the known rays
    rows, _ = scored(replace(perfect, rays=turned), targets)  # none of its own: those in use are scored
    assert rows[0].ray_error_deg == pytest.approx(degrees, rel=1e-6, abs=1e-9)


def test_ray_angle_counts_covered_pixels_only():
    targets = random_targets(B=1, V=2, H=2, W=2)
    targets.covered[0, 0, 0] = False
    targets.covered[0, 1] = False
    perfect = perfect_prediction(targets)
    wrong = perfect.rays.clone()
    wrong[0, 0, 0] *= -1
    rows, _ = scored(replace(perfect, rays=wrong), targets)
    assert rows[0].ray_error_deg == pytest.approx(0, abs=1e-9)
    assert math.isnan(rows[1].ray_error_deg)


def test_not_metric_means_no_bands_and_no_scale():
    targets = replace(far_targets(), is_metric=torch.tensor([True, False]))
    rows, samples = scored(perfect_prediction(targets), targets)
    assert sum(band.pixels for band in rows[2].bands) == 0
    assert math.isnan(samples[1].scale_error)
    assert samples[0].scale_error == pytest.approx(1)
    assert rows[2].abs_rel_aligned == pytest.approx(0, abs=1e-12)
    assert summarise(rows)["range/far/pixels"] == sum(b.pixels for r in rows[:2] for b in r.bands[2:])
