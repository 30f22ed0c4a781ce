"""Cells of an image: their sizes against closed forms, their borders against a projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.geometry.cells import CellGrid, at_cells, cell_angle, cell_angles, cell_walls

CAMERA = PinholeCamera(96, 64, 40.0, 44.0, 48.0, 32.0)  # 100 degrees wide
GRID = (8, 12)  # of 8 x 8 pixels


def by_cell(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[H, W, ...] to [cells, pixels, ...] with plain loops."""
    h, w = x.shape[0] // grid[0], x.shape[1] // grid[1]
    return torch.stack(
        [
            x[r * h : r * h + h, c * w : c * w + w].reshape(h * w, *x.shape[2:])
            for r in range(grid[0])
            for c in range(grid[1])
        ]
    )


def test_the_size_of_a_cell_is_the_root_of_its_solid_angle():
    """A pinhole's pixel (x, y) on the plane z = 1 covers dx dy cos^3 of the angle to the axis."""
    rays = at_cells(torch.from_numpy(CAMERA.rays().copy()), GRID, 0)
    cosine = rays[:, 2].view(GRID)
    expected = (8 / 40 * 8 / 44 * cosine**3).sqrt()
    found = cell_angles(rays, GRID).view(GRID)
    torch.testing.assert_close(found[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=0.03, atol=0)
    torch.testing.assert_close(found, expected, rtol=0.06, atol=0)  # one-sided steps at the border
    assert float(found.max() / found.min()) > 2  # which one number for all cells would hide
    both = cell_angles(torch.stack([rays, rays]), GRID)
    torch.testing.assert_close(both[1], found.flatten())


def test_one_number_suits_a_panorama():
    rays = at_cells(torch.from_numpy(EquirectangularCamera(504, 126).rays().copy()), (18, 72), 0)
    assert cell_angle(rays, (18, 72)) == pytest.approx(2 * math.pi / 72, rel=2e-3)
    middle = cell_angles(rays, (18, 72)).view(18, 72)[9]
    torch.testing.assert_close(middle, torch.full_like(middle, 2 * math.pi / 72), rtol=0.01, atol=0)


def test_walls_bound_what_projects_into_the_cell():
    walls = cell_walls(by_cell(torch.from_numpy(CAMERA.rays().copy()), GRID), 8)
    assert walls.shape == (96, 4, 3)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4000, 3)) * [1.6, 1.2, 0.3] + [0, 0, 1]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    uv, inside = CAMERA.project(directions)
    expected = np.where(inside, (uv[:, 1] // 8) * 12 + uv[:, 0] // 8, -1)
    ahead = torch.from_numpy(directions[:, 2] > 0)
    within = ((torch.from_numpy(directions) @ walls.mT).amin(dim=2) > 0) & ahead  # [cells, 4000]
    found = torch.where(within.any(dim=0), within.int().argmax(dim=0), -1).numpy()
    assert 1000 < inside.sum() < 3000
    # A corner extrapolated on the unit sphere lies a little beside the true one: less than a hundredth of a cell.
    assert (found == expected).mean() > 0.995
    assert (within.sum(dim=0).numpy() == inside).mean() > 0.995  # in no two cells
    edge = np.abs(uv / 8 - np.round(uv / 8)).min(axis=1)
    assert edge[(found != expected) & inside].max(initial=0) < 0.02


def test_grids_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="1 x 5 matching cells have no neighbours"):
        cell_angles(torch.zeros(5, 3), (1, 5))
    with pytest.raises(ValueError, match="cells of 1 x 8 pixels are too small"):
        cell_walls(torch.zeros(4, 8, 3), 8)
    assert cell_angles(torch.rand(4, 3), (2, 2)).shape == (4,)


@pytest.mark.parametrize("wraps", [False, True])
def test_neighbours_and_peaks_against_plain_loops(wraps):
    rows, columns, images = 3, 4, 2
    grid = CellGrid(rows, columns, wraps)
    values = torch.randn(5, images * rows * columns, generator=torch.Generator().manual_seed(0))
    values[0] = 1.0  # a plateau is a peak everywhere
    around = grid.around(torch.arange(values.shape[1]))
    peaks = grid.peaks(values, 1)
    torch.testing.assert_close(grid.peaks(values.T.contiguous(), 0), peaks.T)
    for n in range(values.shape[1]):
        image, row, column = n // 12, n // 4 % 3, n % 4
        expected = {
            image * 12 + r * 4 + c % 4
            for r in range(max(row - 1, 0), min(row + 2, rows))
            for c in range(column - 1, column + 2)
            if wraps or 0 <= c < columns
        }
        found = [k for k in around[n].tolist() if k >= 0]
        assert sorted(found) == sorted(expected)
        assert around[n, 4] == n
        torch.testing.assert_close(peaks[:, n], values[:, n] >= values[:, sorted(expected)].amax(dim=1))
