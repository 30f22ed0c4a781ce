"""Matching term over fused photographs: counterparts against projection and cast rays, the cost by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support.analytic_panoramas import MAX_RANGE_M, batch, cast
from support.street_photographs import (
    CAMERA,
    CENTRES,
    TURNS,
    K,
    fused_batch,
    fused_prediction,
    vehicle_pose,
)

from coop3d.geometry import invert_rigid, transform_points
from coop3d.losses import MatchingTerm, Scene
from coop3d.losses.matching import HIDDEN, USUAL_SHARE, Cells, photographs_per_pose

GRID = (8, 12)  # of photographs of 96 x 64 pixels: cells of 8 x 8
N = 96


def scene(descriptors=None, seen=None, vehicles=2, **targets) -> Scene:
    truth = fused_batch(vehicles)
    descriptors = torch.zeros(1, K * vehicles, *GRID, 4) if descriptors is None else descriptors
    seen = torch.zeros(descriptors.shape[:-1]) if seen is None else seen
    p = replace(fused_prediction(truth), descriptors=descriptors, seen_logits=seen)
    return Scene(p, replace(truth.targets, **targets))


def expected_partners(i: int, j: int) -> np.ndarray:
    """[K N, K]: for the middle of each cell of vehicle i, its cell in each photograph of vehicle j; -1 where hidden.

    The point is projected into the photograph, and a ray cast towards it from that camera says whether it is reached.
    """
    truth = fused_batch(3).targets
    points = truth.points_view[0, i * K : (i + 1) * K, 4::8, 4::8].double().numpy().reshape(-1, 3)
    world = transform_points(vehicle_pose(i), points)
    in_j = transform_points(invert_rigid(vehicle_pose(j)), world)
    result = np.full((K * N, K), -1)
    for k in range(K):
        offset = in_j - CENTRES[k]
        distance = np.linalg.norm(offset, axis=1)
        uv, inside = CAMERA.project(offset @ TURNS[k])
        origin = transform_points(vehicle_pose(j), CENTRES[k][None])
        rays = (world - origin) / distance[:, None]
        reach, _ = cast(np.broadcast_to(origin, rays.shape), np.nan_to_num(rays, nan=1.0))
        hit = inside & (np.abs(reach - distance) < 0.02) & (distance < MAX_RANGE_M)
        result[hit, k] = k * N + (uv[hit, 1] // 8).astype(int) * 12 + (uv[hit, 0] // 8).astype(int)
    return result


@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 0), (2, 0), (1, 2)])
def test_partners_are_those_of_projected_points_and_cast_rays(i, j):
    cells = Cells.of(scene(vehicles=3), GRID, K)
    found, expected = cells.partners(i, j, 0.02)[0].numpy(), expected_partners(i, j)
    both = (found >= 0) & (expected >= 0)
    assert both.sum() > 80
    assert len(np.unique(np.nonzero(both)[1])) >= 2  # in several photographs
    rows, columns = np.abs(found % N // 12 - expected % N // 12), np.abs(found % 12 - expected % 12)
    assert ((rows <= 1) & (columns <= 1))[both].all()
    assert (found == expected)[both].mean() > 0.99
    # Nothing outside of a photograph is taken for its border cells, but for what a cell's own depth span allows.
    assert ((found >= 0) & (expected < 0)).sum() < 0.2 * both.sum()
    # Nothing is lost but points beyond the depth span of a cell's own pixels: corners of cells are found, too.
    lost = (found < 0) & (expected >= 0)
    near, far, origins = (
        x[0].flatten(0, 1).view(3, K * N, -1)[j].numpy()[expected[lost]]
        for x in (cells.nearest, cells.farthest, cells.origins)
    )
    points = cells.points[0].view(3, K * N, 3)[i].numpy()[np.nonzero(lost)[0]]
    distance = np.linalg.norm(points - origins, axis=1, keepdims=True)
    assert ((distance > 0.98 * near) & (distance < 1.02 * far)).sum() <= 1
    assert lost.sum() < 0.2 * both.sum()


def test_points_beside_a_photograph_are_not_in_it():
    """Truth alone, no occlusion: whoever is found lies inside, or up to a fiftieth of a cell beyond the border."""
    cells, beyond = Cells.of(scene(vehicles=3), GRID, K), []
    truth = fused_batch(3).targets
    for i, j in ((0, 1), (1, 0), (0, 2), (2, 1)):
        found = cells.partners(i, j, 0.05)[0].numpy()
        points = truth.points_view[0, i * K : (i + 1) * K, 4::8, 4::8].double().numpy().reshape(-1, 3)
        in_j = transform_points(invert_rigid(vehicle_pose(j)) @ vehicle_pose(i), points)
        for k in range(K):
            in_camera = (in_j[found[:, k] >= 0] - CENTRES[k]) @ TURNS[k]
            assert (in_camera[:, 2] > 0).all()
            uv = in_camera[:, :2] / in_camera[:, 2:] * CAMERA.fx + [48.0, 32.0]
            beyond += np.maximum(np.maximum(-uv, uv - [96.0, 64.0]).max(axis=1), 0).tolist()
    assert len(beyond) > 300
    assert max(beyond) < 0.02 * 8


def test_cost_by_hand_counts_every_right_answer():
    g = torch.Generator().manual_seed(0)
    descriptors = torch.randn(1, 3 * K, *GRID, 16, generator=g, requires_grad=True)
    seen = torch.randn(1, 3 * K, *GRID, generator=g, requires_grad=True)
    whole = scene(descriptors, seen, 3)
    value = MatchingTerm(seen_weight=0.5)(whole)
    cells = Cells.of(whole, GRID, K)
    flat = descriptors.detach()[0].double().numpy().reshape(3, K * N, 16)
    visible = np.zeros((3, K * N), bool)
    total, count, doubled, right = 0.0, 0, 0, 0
    for i, j in product(range(3), repeat=2):
        if i == j:
            continue
        partners, odds = cells.partners(i, j, 0.05)[0].numpy(), flat[i] @ flat[j].T
        for n in np.flatnonzero((partners >= 0).any(axis=1)):
            mine = partners[n][partners[n] >= 0]
            total += np.log(np.exp(odds[n]).sum()) - np.log(np.exp(odds[n][mine]).sum())
            right += odds[n].argmax() in mine
            doubled += len(mine) > 1
            count += 1
            visible[i, n] = True
    assert count > 500
    assert doubled > 20  # the rear cameras overlap
    p = 1 / (1 + np.exp(-seen.detach()[0].double().numpy().reshape(3, K * N)))
    known = fused_batch(3).targets.valid[0, :, 4::8, 4::8].numpy().reshape(3, K * N)
    doubt = -np.where(visible, np.log(p), np.log(1 - p))[known].mean()
    expected = total / (USUAL_SHARE * 6 * K * N) + 0.5 * doubt
    assert float(value.per_sample[0].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(value.statistics["right"]) == pytest.approx(right / count, abs=1e-6)
    assert float(value.statistics["found"]) == pytest.approx(count / (6 * K * N), rel=1e-5)
    value.per_sample.sum().backward()
    for x in (descriptors, seen):
        assert bool(x.grad.isfinite().all())
        assert float(x.grad.norm()) > 1e-3


def test_equal_descriptors_cost_the_logarithm_of_all_cells_of_a_vehicle():
    value = MatchingTerm(seen_weight=0.0)(scene())
    partners = torch.cat([Cells.of(scene(), GRID, K).partners(i, 1 - i, 0.05) for i in range(2)], dim=1)
    answers = (partners >= 0).sum(dim=2)
    answers = answers[answers > 0]
    expected = math.log(K * N) - float(answers.float().log().mean())
    assert float(value.statistics["entropy"]) == pytest.approx(expected, rel=1e-5)


def test_one_vehicle_is_not_compared_with_itself():
    """Its photographs overlap, and would find each other."""
    descriptors = torch.randn(1, K, *GRID, 8, requires_grad=True)
    alone = scene(descriptors, torch.full((1, K, *GRID), -20.0), vehicles=1)
    value = MatchingTerm()(alone)
    assert float(value.per_sample[0].detach()) < 1e-6  # rightly: seen by no other
    value.per_sample.sum().backward()
    assert float(descriptors.grad.abs().max()) == 0
    by_view = Cells.of(alone, GRID)
    assert sum(int((by_view.counterparts(i, j, 0.05) >= 0).sum()) for i, j in ((1, 3), (3, 1), (2, 3))) > 5


def test_views_with_one_pose_are_told_by_their_truth():
    targets = fused_batch(3).targets
    assert photographs_per_pose(targets) == K
    assert photographs_per_pose(batch(("641", "650"), 504).targets) == 1
    T = targets.T_ref_view.clone()
    T[0, 5, 0, 3] += 0.01  # poses of their own, as in each camera's frame
    assert photographs_per_pose(replace(targets, T_ref_view=T)) == 1
    interleaved = replace(targets, vehicle=torch.arange(3).repeat(K))
    assert photographs_per_pose(interleaved) == 1


def test_a_photograph_without_measurements_hides_nothing():
    """What lies behind the surfaces that it shows is hidden only once these are measured."""
    blind = fused_batch(2).targets.valid.clone()
    blind[:, K:] = False
    small = (16, 24)  # behind larger cells and those around them nothing lies
    measured, unmeasured = (
        Cells.of(s, small, K).partners(0, 1, 0.05) == HIDDEN for s in (scene(), scene(valid=blind))
    )
    assert int(measured.sum()) > 20
    assert not bool(unmeasured.any())


def test_sparse_range_finds_the_counterparts_of_dense_range():
    truth = fused_batch(2).targets
    keep = torch.rand(truth.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.15
    valid = truth.valid & keep
    sparse = scene(
        valid=valid,
        range_m=torch.where(valid, truth.range_m, torch.nan),
        is_synthetic=torch.tensor([False]),
    )
    dense, found = (Cells.of(s, GRID, K).partners(0, 1, 0.05)[0] for s in (scene(), sparse))
    both = (dense >= 0) & (found >= 0)
    assert both.sum() > 0.5 * (dense >= 0).sum()
    near = ((dense % N // 12 - found % N // 12).abs() <= 1) & ((dense % 12 - found % 12).abs() <= 1)
    assert near[both].float().mean() > 0.97
