"""The grid of a LiDAR's beams: its cells against trigonometry, its fast paths against the plain one."""

from dataclasses import replace

import numpy as np
import pytest
from support.analytic import render_rig, scan, street, vehicle_pose

from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher, beams
from coop3d.types import LidarSweep

CAMERA = EquirectangularCamera(512, 128)


def cells_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cell, inverse = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    beams._find_cells(np.ascontiguousarray(points, np.float32).reshape(-1), cell, inverse)
    return cell, inverse


def test_cells_are_those_of_the_points_angles():
    """Every octant and elevation; points closer than 1e-4 cells to a border may fall on either side of it."""
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(200_000, 3)) * rng.uniform(0.5, 120, (200_000, 1))).astype(np.float32)
    x, y, z = points.astype(np.float64).T
    beam = (np.degrees(np.arctan2(-y, np.hypot(x, z))) + 25) / 30 * 63 + 0.5
    column = np.arctan2(x, z) / (2 * np.pi) * 1024 + 512
    row_edge, column_edge = (np.abs(value - np.round(value)) < 1e-4 for value in (beam, column))
    inside = (beam >= 0) & (beam < 64)
    cell = (np.floor(beam) + 16) * (1024 + 32) + np.floor(column) % 1024 + 16
    found, inverse = cells_of(points)
    sure = ~row_edge & ~(column_edge & inside)
    assert inside.mean() > 0.2
    assert sure.mean() > 0.999
    np.testing.assert_array_equal(found[sure], np.where(inside, cell, -1)[sure])
    np.testing.assert_allclose(inverse * np.sqrt(x * x + y * y + z * z), 1, rtol=1e-6)


def test_points_without_a_direction_have_no_cell():
    nan, inf = np.nan, np.inf
    odd = [
        (0, 0, 0),
        (0, -5, 0),
        (0, 5, 0),
        (nan, 1, 1),
        (1, nan, 1),
        (nan, nan, nan),
        (inf, 0, 1),
        (0, inf, 1),
    ]
    cell, _ = cells_of(np.array(odd))
    assert (cell[[0, 1, 2, 3, 4, 5, 7]] == -1).all()
    assert -1 <= cell[6] < beams.CELLS  # infinitely far to the right: any cell, but one of the grid's


def random_surface(seed: int) -> np.ndarray:
    """Inverse range of pieces of smooth surface with noise, steps, creases and holes, 0 = no point."""
    rng = np.random.default_rng(seed)
    w = np.zeros((beams.CELLS // beams.STRIDE, beams.STRIDE))
    rows, columns = beams.BEAMS, beams.COLUMNS
    t, s = np.meshgrid(np.arange(columns), np.arange(rows))
    piece = rng.integers(0, 5, (rows // 8, columns // 16)).repeat(8, 0).repeat(16, 1)
    base = rng.uniform(0.01, 0.3, 5)[piece] + 2e-4 * np.abs(t % 32 - 16) + 5e-4 * np.abs(s % 16 - 8)
    base *= 1 + rng.normal(0, 0.004, base.shape)
    base[rng.uniform(size=base.shape) < 0.05] = 0
    w[beams.WIDEST : -beams.WIDEST, beams.WIDEST : -beams.WIDEST] = base
    flat = w.astype(np.float32).reshape(-1)
    beams.close_circle(flat, 1)
    return flat


@pytest.mark.parametrize(("step", "angle"), [(1, beams.ACROSS), (beams.STRIDE, beams.ALONG)])
def test_the_vectorised_reach_is_the_plain_one(step, angle):
    inverse = random_surface(1)
    smooth, fast, plain = (np.zeros(beams.CELLS, np.uint8) for _ in range(3))
    beams._smooth(inverse, step, smooth)
    beams._reach_wide(inverse, step, angle, smooth, fast)
    both = fast > 0
    beams._reach_rest(inverse, step, angle, smooth, fast)
    beams._reach_rest(inverse, step, angle, smooth, plain)  # every cell, as nothing was filled in
    mine = np.zeros((beams.CELLS // beams.STRIDE, beams.STRIDE), bool)
    mine[beams.WIDEST : -beams.WIDEST, beams.WIDEST : -beams.WIDEST] = True
    np.testing.assert_array_equal(fast[mine.ravel()], plain[mine.ravel()])
    assert set(np.unique(plain & beams.REACH)) >= {0, 1, 2, 4, 8}  # all cases occur
    both_sides = beams.BEFORE | beams.AFTER
    assert {
        far | sides for far in (0, beams.FAR) for sides in (beams.BEFORE, beams.AFTER, both_sides)
    } <= set(np.unique(plain & (both_sides | beams.FAR)))
    assert 0.1 < both[mine.ravel()].mean() < 0.99
    smooth_at = (smooth[mine.ravel()] & 1) == 1
    np.testing.assert_array_equal(both[mine.ravel()], smooth_at)


@pytest.mark.parametrize(
    ("code", "steps"),
    [
        (0, (0, 0, 0)),
        (8 | beams.BEFORE | beams.AFTER, (8, 8, -1)),
        (4 | beams.AFTER, (0, 4, 1)),
        (16 | beams.BEFORE, (16, 0, -1)),
        (2 | beams.AFTER | beams.FAR, (0, 2, 2)),
        (2 | beams.BEFORE | beams.AFTER | beams.FAR, (2, 2, -2)),
    ],
)
def test_a_reach_reads_back_as_steps(code, steps):
    assert beams.sides(code) == steps


def test_the_nearest_point_keeps_a_cell_and_all_points_are_kept():
    ray = np.array([0.3, 0.1, 1.0])
    points = np.stack([9 * ray, 4 * ray, 6 * ray, [0, -30, 1]]).astype(np.float32)
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    grid = beams.beam_grid(points, turn)
    assert grid.end == beams.CELLS + 3
    placed = grid.points[: 3 * grid.end].reshape(-1, 3)
    np.testing.assert_allclose(placed[cells_of(points)[0][1]], turn @ points[1], rtol=1e-6)
    rest = {tuple(np.round(p, 3)) for p in placed[beams.CELLS :].tolist()}
    assert rest == {tuple(np.round(turn @ p.astype(float), 3)) for p in points[[0, 2, 3]]}
    assert np.isfinite(placed[beams.EDGE : beams.CELLS - beams.EDGE]).all(axis=1).sum() == 1


def test_the_order_of_the_points_does_not_matter():
    frame = street_frame()
    sweep = frame.sweeps[0]
    shuffled = np.random.default_rng(0).permutation(sweep.points)
    stitcher = PanoramaStitcher(CAMERA)
    expected = stitcher(frame).range_m
    assert np.isfinite(expected).mean() > 0.1
    found = stitcher(replace(frame, sweeps=(replace(sweep, points=shuffled),))).range_m
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [1, 7, 9])
def test_a_sweep_of_a_few_points_gives_just_those(count):
    frame = street_frame()
    sweep = frame.sweeps[0]
    few = replace(sweep, points=sweep.points[:: len(sweep.points) // count][:count])
    stitcher = PanoramaStitcher(CAMERA)
    stitcher(frame)  # a full sweep before leaves its buffers behind
    panorama = stitcher(replace(frame, sweeps=(few,)))
    assert 1 <= panorama.valid.sum() <= count
    distance = np.linalg.norm(panorama.points_pano()[panorama.valid][:, None] - few.points, axis=-1).min(
        axis=1
    )
    # Without neighbours a point keeps its range along the pixel's centre ray, up to half a pixel (0.35 deg) off it.
    assert (distance < 0.0096 * panorama.range_m[panorama.valid]).all()


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_nothing_happens_where_the_sensors_own_circle_closes(quarter):
    """The same points of a sensor mounted a quarter turn around: only which column is the first changes."""
    frame = street_frame()
    sweep = frame.sweeps[0]
    c, s = np.round(np.cos(quarter * np.pi / 2)), np.round(np.sin(quarter * np.pi / 2))
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    turned = LidarSweep(points=(sweep.points @ T[:3, :3]).astype(np.float32), T_rig_sensor=T)
    stitcher = PanoramaStitcher(CAMERA)
    expected, found = stitcher(frame).range_m, stitcher(replace(frame, sweeps=(turned,))).range_m
    # A few points lie on the border of two cells, up to rounding.
    same = np.isclose(found, expected, rtol=1e-5, equal_nan=True)
    assert same.mean() > 0.9995
    assert same[np.isfinite(expected)].mean() > 0.998


@pytest.mark.parametrize("moved", [(3.0, -0.5, 1.0), (-20.0, 0.3, 15.0)])
def test_where_the_sensor_stands_is_part_of_its_pose(moved):
    """A virtual camera elsewhere and rig, points and cameras moved along see the same."""
    frame = street_frame()
    T = np.eye(4)
    T[:3, 3] = moved
    stitcher = PanoramaStitcher(CAMERA)
    shifted = replace(
        frame,
        views=tuple(replace(v, T_rig_cam=T @ v.T_rig_cam) for v in frame.views),
        sweeps=tuple(replace(s, T_rig_sensor=T @ s.T_rig_sensor) for s in frame.sweeps),
    )
    expected, found = stitcher(frame).range_m, stitcher(shifted).range_m
    same = np.isclose(found, expected, rtol=1e-4, equal_nan=True)
    assert same[np.isfinite(expected)].mean() > 0.998


def street_frame():
    scene = street((4.0, -7.0))
    frame = render_rig(scene, vehicle_pose(1.0, -2.0, 25.0, (4.0, -7.0)), size=(80, 60), with_depth=False)
    sweep = scan(scene, frame.T_world_rig, frame.T_world_rig, np.random.default_rng(0), 0.02)
    return replace(frame, sweeps=(sweep,))
