"""Matching term: counterparts against an independent ray caster, and what the loss says of good and bad descriptors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.analytic_panoramas import CAMERAS, MAX_RANGE_M, POSES, batch, cast, prediction

from coop3d.geometry import EquirectangularCamera, invert_rigid, transform_points
from coop3d.losses import MatchingTerm, Scene
from coop3d.losses.matching import HIDDEN, USUAL_SHARE, Cells, _representative_pixel
from coop3d.types import ViewTargets

GRID = (18, 72)  # of panoramas of 504 x 126 pixels: cells of 7 x 7
AGENTS = ("641", "650", "659")


def with_descriptors(descriptors: torch.Tensor, seen: torch.Tensor | None = None, agents=AGENTS[:2]) -> Scene:
    truth = batch(agents, 504)
    seen = torch.zeros(descriptors.shape[:-1]) if seen is None else seen
    return Scene(
        replace(prediction(truth), descriptors=descriptors, seen_logits=seen), replace(truth.targets)
    )


def counterparts(i: int, j: int) -> np.ndarray:
    """Cell of vehicle j [GRID] that shows what the middle of each cell of vehicle i shows, by casting rays; else -1.

    `HIDDEN` where all of that cell is nearer by a tenth and more.

    Per point: which of j's cameras looks in its direction, is it the camera of that pixel, and does a ray cast from
    that camera towards the point reach it?
    """
    camera = EquirectangularCamera(504, 126)
    truth = batch(AGENTS, 504).targets
    middle = (slice(3, None, 7), slice(3, None, 7))
    points = truth.points_view[0, i].numpy()[middle]
    world = transform_points(POSES[i], points.reshape(-1, 3).astype(float)).reshape(points.shape)
    result = np.full(GRID, -1)
    for cell in np.argwhere(np.isfinite(world[..., 0])):
        X = transform_points(invert_rigid(POSES[j]), world[tuple(cell)][None])[0]
        for k in range(4):
            offset = X - CAMERAS[k]
            uv, ok = camera.project(offset[None])
            u, v = int(uv[0, 0]) % 504, int(uv[0, 1])
            if not ok[0] or not 0 <= v < 126 or truth.source[0, j, v, u] != k:
                continue
            origin = transform_points(POSES[j], CAMERAS[k][None])
            ray = (world[tuple(cell)] - origin[0]) / np.linalg.norm(offset)
            reach, _ = cast(origin, ray[None])
            if np.linalg.norm(offset) < MAX_RANGE_M and abs(reach[0] - np.linalg.norm(offset)) < 0.02:
                result[tuple(cell)] = (v // 7) * 72 + u // 7
            block = truth.range_m[0, j, v // 7 * 7 : v // 7 * 7 + 7, u // 7 * 7 : u // 7 * 7 + 7].numpy()
            if np.nanmax(block, initial=0) < 0.9 * np.linalg.norm(offset) and np.isfinite(block).all():
                result[tuple(cell)] = HIDDEN
    return result


@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 0), (2, 0), (1, 2)])
def test_counterparts_are_those_of_cast_rays(i, j):
    cells = Cells.of(Scene(prediction(batch(AGENTS, 504)), batch(AGENTS, 504).targets), GRID)
    found, expected = cells.counterparts(i, j, 0.02)[0].view(GRID).numpy(), counterparts(i, j)
    both = (found >= 0) & (expected >= 0)
    assert both.sum() > 600
    # Where both see a counterpart it is the same cell, but for points within a pixel of a border.
    rows, columns = np.abs(found // 72 - expected // 72), np.abs(found % 72 - expected % 72)
    near = (rows <= 1) & (np.minimum(columns, 72 - columns) <= 1)
    assert near[both].all()
    assert (found == expected)[both].mean() > 0.97
    # A cell is not a pixel: at silhouettes its span of ranges decides. Few may differ.
    assert ((found >= 0) != (expected >= 0)).sum() < 0.25 * both.sum()
    hidden = expected == HIDDEN
    assert hidden.sum() > 15
    assert not (found[hidden] >= 0).any()


def test_the_measured_pixel_nearest_to_the_middle_stands_for_a_sparse_cell():
    """Of 3 rows of 5 pixels, number 7 is the middle; 13 is one row and one column from it."""
    valid = torch.zeros(2, 1, 2, 15, dtype=torch.bool)
    valid[..., 0, [0, 4, 10, 13]] = True
    pixel, known = _representative_pixel(valid, torch.tensor([False, True]), 5)
    assert pixel[:, 0, 0].tolist() == [13, 7]
    assert known[:, 0].tolist() == [[True, False], [False, False]]


def perfect_descriptors(agents=AGENTS[:2], sharpness: float = 12.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A code of the place in the world: nearby places have similar codes; and which cells another view sees."""
    truth = batch(agents, 504)
    cells = Cells.of(Scene(prediction(truth), truth.targets), GRID)
    V = len(agents)
    N = GRID[0] * GRID[1]
    codes = torch.eye(V * N).view(1, V, N, V * N).clone()
    seen = torch.zeros(1, V, N)
    for i in range(V):
        for j in range(i + 1, V):
            for a, b in ((i, j), (j, i)):
                partner = cells.counterparts(a, b, 0.05)[0]
                n = torch.nonzero(partner >= 0)[:, 0]
                seen[0, a, n] = 1
                codes[0, a, n, b * N + partner[n]] = 1
    return sharpness**0.5 * codes.view(1, V, *GRID, -1), (40 * seen - 20).view(1, V, *GRID)


def test_good_descriptors_cost_little_and_equal_ones_the_logarithm_of_the_cells():
    descriptors, seen = perfect_descriptors()
    term = MatchingTerm(seen_weight=0.5)
    good = term(with_descriptors(descriptors * 2, seen))
    assert float(good.per_sample[0]) < 0.15
    assert float(good.statistics["right"]) > 0.9
    blind = term(with_descriptors(torch.zeros(1, 2, *GRID, 8)))
    N = GRID[0] * GRID[1]
    share = float(blind.statistics["found"])  # 1 / USUAL_SHARE of it is what the mean is multiplied by
    assert float(blind.statistics["entropy"]) == pytest.approx(math.log(N), rel=1e-5)
    assert float(blind.per_sample[0]) == pytest.approx(
        share / USUAL_SHARE * math.log(N) + 0.5 * math.log(2), rel=1e-5
    )


def test_entropy_by_hand_and_its_gradient():
    g = torch.Generator().manual_seed(0)
    descriptors = torch.randn(1, 2, *GRID, 16, generator=g, requires_grad=True)
    scene = with_descriptors(descriptors)
    value = MatchingTerm(seen_weight=0.0)(scene).per_sample[0]
    cells, total, count = Cells.of(scene, GRID), 0.0, 0
    flat = descriptors.detach()[0].flatten(1, 2).double().numpy()
    for i, j in ((0, 1), (1, 0)):
        partner = cells.counterparts(i, j, 0.05)[0].numpy()
        odds = flat[i] @ flat[j].T
        for n in np.flatnonzero(partner >= 0):
            total += np.log(np.exp(odds[n]).sum()) - odds[n, partner[n]]
            count += 1
    assert count > 1000
    assert float(value.detach()) == pytest.approx(total / (USUAL_SHARE * 2 * flat.shape[1]), rel=1e-4)
    value.backward()
    assert descriptors.grad is not None
    assert float(descriptors.grad.norm()) > 1e-3


def test_relative_depth_and_single_views_say_nothing():
    descriptors = torch.randn(1, 2, *GRID, 8)
    scene = with_descriptors(descriptors)
    quiet = Scene(scene.prediction, replace(scene.targets, is_metric=torch.tensor([False])))
    assert float(MatchingTerm()(quiet).per_sample[0]) == 0.0
    alone = batch(("641",), 504)
    lone = replace(
        prediction(alone), descriptors=descriptors[:, :1], seen_logits=torch.full((1, 1, *GRID), -20.0)
    )
    assert float(MatchingTerm()(Scene(lone, alone.targets)).per_sample[0]) < 1e-6  # rightly: seen by no other
    leaf = descriptors[:, :1].clone().requires_grad_()  # a parallel wrapper waits for every gradient
    MatchingTerm()(Scene(replace(lone, descriptors=leaf), alone.targets)).per_sample[0].backward()
    assert leaf.grad is not None
    assert float(leaf.grad.abs().max()) == 0.0


def sparse(agents=AGENTS[:2], share: float = 0.1, blind: int | None = None) -> ViewTargets:
    """Range at one pixel in ten, as fused LiDAR gives; none in view ``blind``."""
    targets = batch(agents, 504).targets
    valid = targets.valid & (
        torch.rand(targets.valid.shape, generator=torch.Generator().manual_seed(0)) < share
    )
    if blind is not None:
        valid[:, blind] = False
    range_m = torch.where(valid, targets.range_m, torch.nan)
    return replace(targets, valid=valid, range_m=range_m, is_synthetic=torch.tensor([False]))


def test_sparse_range_finds_the_counterparts_of_dense_range():
    truth = batch(AGENTS[:2], 504)
    dense = Cells.of(Scene(prediction(truth), truth.targets), GRID).counterparts(0, 1, 0.05)[0]
    found = Cells.of(Scene(prediction(truth), sparse()), GRID).counterparts(0, 1, 0.05)[0]
    both = (dense >= 0) & (found >= 0)
    assert both.sum() > 0.5 * (dense >= 0).sum()
    rows, columns = (dense // 72 - found // 72).abs(), (dense % 72 - found % 72).abs()
    near = (rows <= 1) & (torch.minimum(columns, 72 - columns) <= 1)
    assert near[both].float().mean() > 0.97


def wanted(targets: ViewTargets) -> np.ndarray:
    """What the term teaches of visibility [V, GRID]: 1: seen by another view, -1: by none, 0: nothing."""
    V = targets.valid.shape[1]
    seen = torch.zeros(1, V, *GRID, requires_grad=True)
    descriptors = torch.randn(1, V, *GRID, 8, requires_grad=True)
    p = replace(prediction(batch(AGENTS[:V], 504)), descriptors=descriptors, seen_logits=seen)
    MatchingTerm()(Scene(p, targets)).per_sample[0].backward()
    assert descriptors.grad is not None
    assert float(descriptors.grad.norm()) > 0
    assert seen.grad is not None
    return -np.sign(seen.grad[0].numpy())


def test_sparse_range_teaches_visibility_where_it_is_certain():
    """Cast rays say which places are seen or hidden; where nothing is measured, nothing is said."""
    targets = sparse()
    taught = wanted(targets)
    measured = targets.valid[0].unfold(1, 7, 7).unfold(2, 7, 7).any(dim=(-2, -1)).numpy()
    assert not taught[~measured].any()
    truth = counterparts(0, 1)
    clear = [(taught[0] > 0) & (truth >= 0), (taught[0] < 0) & (truth == HIDDEN)]
    wrong = [(taught[0] > 0) & (truth == HIDDEN), (taught[0] < 0) & (truth >= 0)]
    assert [c.sum() > least for c, least in zip(clear, (300, 10), strict=True)] == [True, True]
    assert all(w.sum() < 0.2 * c.sum() for w, c in zip(wrong, clear, strict=True))


def test_a_place_is_hidden_only_where_all_other_views_say_so():
    """The third vehicle has no LiDAR: what the second does not see, it may see."""
    two, three = wanted(sparse()), wanted(sparse(AGENTS, blind=2))
    assert (two[0] < 0).sum() > 10
    assert not (three < 0).any()
    assert np.array_equal(three[:2] > 0, two > 0)
    assert not three[2].any()


def test_cells_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="5 x 72 matching cells do not divide an image of 126 x 504"):
        MatchingTerm()(with_descriptors(torch.zeros(1, 2, 5, 72, 4)))


def test_three_vehicles_are_three_pairs():
    descriptors = torch.randn(1, 3, *GRID, 8, generator=torch.Generator().manual_seed(3))
    whole = MatchingTerm(seen_weight=0.0)(with_descriptors(descriptors, agents=AGENTS))
    cells = Cells.of(with_descriptors(descriptors, agents=AGENTS), GRID)
    pairs = sum(
        int((cells.counterparts(i, j, 0.05) >= 0).sum()) for i in range(3) for j in range(3) if i != j
    )
    assert float(whole.statistics["found"]) * 6 * GRID[0] * GRID[1] == pytest.approx(pairs, rel=1e-5)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"predicts no descriptors; set model\.pred_head\.matching"):
        MatchingTerm()(Scene(prediction(batch(AGENTS[:2], 504)), batch(AGENTS[:2], 504).targets))
    with pytest.raises(ValueError, match="range_tolerance is 0"):
        MatchingTerm(range_tolerance=0)
