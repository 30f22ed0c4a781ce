"""Position tables against a slow direct bicubic sum, and their behaviour on a circle."""

from __future__ import annotations

import math

import pytest
import torch

from coop3d.geometry import CylindricalCamera
from coop3d.models.position_table import (
    column_turns,
    cubic_weights,
    forget_axes,
    identity_axis,
    official_axis,
    periodic_axis,
    ray_turns,
    resample,
    seam_jump,
)

CPU = torch.device("cpu")


def keys_kernel(x: float, a: float = -0.75) -> float:
    """R. Keys 1981, written as published."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def slow_bicubic(table: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """DINOv2's resampling pixel by pixel, with its +0.1 and border-clamped taps."""
    R, S, C = table.shape
    out = torch.zeros(h, w, C, dtype=table.dtype)
    for i in range(h):
        y = (i + 0.5) * R / (h + 0.1) - 0.5
        for j in range(w):
            x = (j + 0.5) * S / (w + 0.1) - 0.5
            for r in range(math.floor(y) - 1, math.floor(y) + 3):
                for s in range(math.floor(x) - 1, math.floor(x) + 3):
                    weight = keys_kernel(y - r) * keys_kernel(x - s)
                    out[i, j] += weight * table[min(max(r, 0), R - 1), min(max(s, 0), S - 1)]
    return out


@pytest.mark.parametrize(("h", "w"), [(4, 8), (9, 3), (7, 7)])
def test_official_resampling_against_the_direct_sum(h, w):
    table = torch.randn(7, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = resample(table, official_axis(h, 7, CPU), official_axis(w, 7, CPU))
    torch.testing.assert_close(found.unflatten(0, (h, w)), slow_bicubic(table, h, w), rtol=0, atol=1e-13)


def test_official_resampling_against_torch():
    table = torch.randn(1, 5, 37, 37, generator=torch.Generator().manual_seed(0))
    factors = ((9 + 0.1) / 37, (36 + 0.1) / 37)
    expected = torch.nn.functional.interpolate(table, scale_factor=factors, mode="bicubic")
    found = resample(table[0].permute(1, 2, 0), official_axis(9, 37, CPU), official_axis(36, 37, CPU))
    # float32 coordinates near 37 are exact to 4e-6, and the kernel's slope is about 1
    torch.testing.assert_close(found.T.unflatten(1, (9, 36)), expected[0], rtol=0, atol=5e-5)


@pytest.mark.parametrize("size", [7, 5])
def test_axes_made_while_predicting_serve_training(size):
    forget_axes()
    table = torch.ones(size, size, 3, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        rows = identity_axis(7, CPU) if size == 7 else official_axis(7, size, CPU)
    resample(table, rows, rows).sum().backward()
    torch.testing.assert_close(table.grad.sum(), torch.tensor(7.0 * 7 * 3, dtype=torch.float64))


def test_periodic_reading_is_the_table_itself_on_its_own_grid():
    weights = periodic_axis(column_turns(36, CPU), 36)
    torch.testing.assert_close(weights, torch.eye(36), rtol=0, atol=1e-5)


def test_periodic_reading_continues_across_the_seam():
    table = torch.sin(2 * math.pi * (torch.arange(12, dtype=torch.float64) + 0.5) / 12)
    turns = torch.tensor([0.999, 0.0, 0.001, 1.0], dtype=torch.float64)
    found = periodic_axis(turns, 12) @ table
    # a = -0.75 reproduces a sine of 12 samples per turn to about 1 %
    torch.testing.assert_close(found, torch.sin(2 * math.pi * turns), rtol=0, atol=0.02)
    assert found[1] == found[3]
    assert (cubic_weights(turns * 12, 12, wrap=True).sum(-1) - 1).abs().max() < 1e-12


def test_ray_turns_are_the_columns_of_an_upright_panorama_and_roll_with_it():
    rays = torch.from_numpy(CylindricalCamera(8 * 14, 28).rays().copy()).float()
    turns = ray_turns(rays, 14)
    torch.testing.assert_close(turns, column_turns(8, CPU), rtol=0, atol=1e-6)
    torch.testing.assert_close(ray_turns(rays.roll(42, 1), 14), turns.roll(3), rtol=0, atol=1e-6)


def test_seam_jump_tells_a_circle_from_a_plane():
    columns = torch.arange(12.0)[None, :, None].expand(5, 12, 3)
    angle = columns * 2 * torch.pi / 12
    assert seam_jump(torch.cat([angle.sin(), angle.cos()], dim=-1)) == pytest.approx(1.0, abs=1e-5)
    assert seam_jump(columns) == pytest.approx(11.0)
    assert seam_jump(columns.roll(4, dims=1)) == pytest.approx(1.0)  # the break is elsewhere
    assert seam_jump(torch.ones(5, 12, 3)) == 0.0
