"""The hierarchy of the ray tracer: every triangle once, boxes as tight as can be, hits as without a hierarchy."""

from __future__ import annotations

import numpy as np
import pytest

from coop3d.datasets.synthetic.bvh import FAR, Hierarchy, build_bvh, trace_rays

RNG = np.random.default_rng(0)
SOUPS = {
    "spread": RNG.uniform(-20, 20, (700, 1, 3)) + RNG.normal(size=(700, 3, 3)),
    "on_a_grid": RNG.integers(0, 3, (400, 3, 3)).astype(float),  # many share a centre
    "all_the_same": np.repeat(RNG.normal(size=(1, 3, 3)), 30, axis=0),
    "one": RNG.normal(size=(1, 3, 3)),
}


def leaves_below(bvh, node):
    if bvh.size[node]:
        return list(range(bvh.first[node], bvh.first[node] + bvh.size[node]))
    return leaves_below(bvh, bvh.first[node]) + leaves_below(bvh, bvh.first[node] + 1)


@pytest.mark.parametrize("name", SOUPS)
def test_every_triangle_is_in_one_leaf_and_every_box_is_tight(name):
    triangles = SOUPS[name]
    bvh = build_bvh(triangles)
    assert leaves_below(bvh, 0) == list(range(len(triangles)))
    np.testing.assert_array_equal(bvh.triangles, triangles[bvh.order])
    for node in range(len(bvh.first)):
        corners = bvh.triangles[leaves_below(bvh, node)].reshape(-1, 3)
        np.testing.assert_array_equal(bvh.bounds[node], [*corners.min(axis=0), *corners.max(axis=0)])
        if bvh.size[node] > 4:  # only what cannot be told apart stays together
            each = corners.reshape(-1, 3, 3)
            assert np.ptp(0.5 * (each.min(axis=1) + each.max(axis=1)), axis=0).max() <= 1e-9


def test_a_crowd_is_cut_off_from_what_lies_scattered():
    small = 0.01 * RNG.normal(size=(420, 3, 3))
    crowd, few = RNG.uniform(0, 1, (400, 1, 3)), RNG.uniform((10, 0, 0), (100, 1, 1), (20, 1, 3))
    bvh = build_bvh(np.concatenate([few, crowd]) + small)
    near, far = bvh.bounds[1], bvh.bounds[2]
    assert near[3:].max() < 1.1
    assert far[0] > 9


@pytest.mark.parametrize("name", SOUPS)
def test_the_nearest_hit_is_that_of_all_triangles_tried_one_by_one(name):
    triangles = SOUPS[name]
    origins = RNG.uniform(-25, 25, (300, 3))
    ends = triangles[RNG.integers(0, len(triangles), 300)].mean(axis=1) + RNG.normal(scale=0.3, size=(300, 3))
    directions = ends - origins
    hit, t = np.full(300, -1), np.full(300, FAR)
    nobody = np.zeros(len(triangles), np.int64)
    bvh = build_bvh(triangles)
    trace_rays(origins, directions, Hierarchy(bvh, nobody, 0), -1, t, hit)
    expected = nearest(origins, directions, triangles)
    np.testing.assert_allclose(np.where(t < FAR, t, np.inf), expected, rtol=1e-9)
    assert np.isfinite(expected).sum() > 50


def nearest(origins, directions, triangles):
    """[N] distance to the first triangle, by solving for its two edges and the ray; inf: none."""
    a, b, c = triangles.transpose(1, 0, 2)
    found = np.full(len(origins), np.inf)
    for i, (o, d) in enumerate(zip(origins, directions, strict=True)):
        M = np.stack([b - a, c - a, np.broadcast_to(-d, a.shape)], axis=-1)
        some = np.abs(np.linalg.det(M)) > 1e-12
        u, v, t = np.linalg.solve(M[some], (o - a[some])[..., None])[..., 0].T
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        found[i] = t[inside].min(initial=np.inf)
    return found
