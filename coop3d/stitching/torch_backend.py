"""Rig panoramas of many frames at once in torch, on a CPU or a GPU, by the tables and rules of the numpy back end.

For frames of one rig with photographs and dense depth already on the device. Colour agrees with
`sample_colour` to one grey level (which rounds once more), range and masks with `sample_dense` to float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coop3d.stitching.depth import OUTSIDE, REACH_EDGE, REACH_SKY, SMOOTH
from coop3d.stitching.table import PAD, RigTable


class StitchedBatch(NamedTuple):
    """Fields of `coop3d.types.Panorama` for B frames of one rig; ``source`` and ``origins`` are the table's."""

    rgb: Tensor  # [B, H, W, 3] uint8
    range_m: Tensor  # [B, H, W] float32, NaN = unknown
    valid: Tensor  # [B, H, W] bool
    non_ambiguous: Tensor  # [B, H, W] bool
    mask_known: Tensor  # [B, H, W] bool


class TorchStitcher:
    """Stitch batches of one rig's frames on a device.

    Args:
        table: fixed look-up, from `PanoramaStitcher.table` or `build_table`.
        device: where the look-up lives and the work is done.
    """

    def __init__(self, table: RigTable, device: torch.device | str = "cpu") -> None:
        self.shape = table.source.shape
        self._sizes = [(c.height, c.width) for c in table.cameras]
        self._samples = _colour_samples(table, torch.device(device))
        looks = table.depth_lookups
        starts = np.cumsum([0, *((h + 2 * PAD) * (w + 2 * PAD) for h, w in self._sizes)])
        columns = list(zip(*(look.arrays for look in looks), strict=True))
        columns[1] = tuple(nearest + start for nearest, start in zip(columns[1], starts[:-1], strict=True))
        self._pixel, self._nearest, self._dx, self._dy, self._range_per_z = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in columns
        )
        widths = np.repeat([w + 2 * PAD for _, w in self._sizes], [len(look.pixel) for look in looks])
        self._row = torch.from_numpy(widths).to(device)  # [N] flat step to the next image row
        self._covered = torch.from_numpy(table.covered).to(device)

    def __call__(self, images: Tensor, z_m: Tensor | None = None) -> StitchedBatch:
        """Stitch B frames.

        Args:
            images: [B, K, h, w, 3] uint8.
            z_m: [B, K, h, w] float32 dense z-depth, NaN = sky; None: range is unknown everywhere.
        """
        B, (H, W) = images.shape[0], self.shape
        rgb = self._colour(images)
        range_m = images.new_full((B, H * W), torch.nan, dtype=torch.float32)
        if z_m is None:
            nothing = torch.zeros((B, H, W), dtype=torch.bool, device=images.device)
            known = (~self._covered).expand(B, H, W)
            return StitchedBatch(rgb, range_m.reshape(B, H, W), nothing, nothing, known)
        inverse, surface, edge = self._inverse_depth(z_m)
        range_m[:, self._pixel] = self._range_per_z / inverse
        seen = torch.zeros((B, 2, H * W), dtype=torch.bool, device=images.device)
        seen[:, 0, self._pixel], seen[:, 1, self._pixel] = surface, edge
        range_m, seen = range_m.reshape(B, H, W), seen.reshape(B, 2, H, W)
        return StitchedBatch(rgb, range_m, torch.isfinite(range_m), seen[:, 0], ~seen[:, 1])

    def _colour(self, images: Tensor) -> Tensor:
        B, (H, W) = images.shape[0], self.shape
        atlas = torch.nn.functional.pad(images.flatten(1, 2), (0, 0, 0, 0, 0, 2))
        atlas = atlas.flatten(1, 2)  # [B, pixels, 3]
        width = images.shape[3]
        total = images.new_zeros((B, H * W, 3), dtype=torch.float32)
        for first, fx, fy in self._samples:
            top = torch.lerp(atlas[:, first].float(), atlas[:, first + 1].float(), fx)
            bottom = torch.lerp(atlas[:, first + width].float(), atlas[:, first + width + 1].float(), fx)
            total += torch.lerp(top, bottom, fy)
        return (total / len(self._samples) + 0.5).to(torch.uint8).reshape(B, H, W, 3)

    def _inverse_depth(self, z_m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N] inverse depth (NaN = unknown), [B, N] a surface is seen, [B, N] surface or sky; see `depth._look`."""
        images = [torch.where(z > 0, 1.0 / z, 0.0) for z in z_m.unbind(1)]
        padded = [torch.nn.functional.pad(i, (PAD,) * 4, value=OUTSIDE).flatten(1) for i in images]
        flat, p = torch.cat(padded, dim=1), self._nearest
        w0 = flat[:, p]
        step_x = torch.where(self._dx >= 0, 1, -1)
        step_y = torch.where(self._dy >= 0, self._row, -self._row)
        x, y = self._dx.abs(), self._dy.abs()
        change_x, sure_x = _follow(flat, w0, p, step_x, x)
        change_y, sure_y = _follow(flat, w0, p, step_y, y)
        value = w0 + change_x + change_y
        good = (w0 > 0) & sure_x & sure_y & (value > 0)
        next_x, next_y, diagonal = flat[:, p + step_x], flat[:, p + step_y], flat[:, p + step_x + step_y]
        reaches_in = (
            ((next_x > 0) & (x > REACH_SKY))
            | ((next_y > 0) & (y > REACH_SKY))
            | ((diagonal > 0) & (torch.minimum(x, y) > REACH_SKY))
        )
        beside_sky = (next_x == 0) | (next_y == 0)
        edge = torch.where(w0 == 0, reaches_in, ~good & beside_sky)
        surface = (w0 > 0) & ~edge
        return torch.where(good, value, torch.nan), surface, edge


def _follow(w: Tensor, w0: Tensor, p: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`depth._follow` for many pixels: [B, N] change of inverse depth and whether it can be trusted."""
    before, after, behind, next_after = w[:, p - s], w[:, p + s], w[:, p - 2 * s], w[:, p + 2 * s]
    tolerance = SMOOTH * w0
    back, ahead, beyond = w0 - before, after - w0, next_after - after
    smooth = (before > 0) & (after > 0) & ((ahead - back).abs() <= tolerance)
    goes_on = (after > 0) & (next_after > 0) & ((beyond - ahead).abs() <= tolerance)
    comes_from = (before > 0) & (behind > 0) & ((back - (before - behind)).abs() <= tolerance)
    here, there, other = ahead - beyond, ahead - back, ahead - beyond + t * beyond
    has_next = comes_from & (after > 0) & (next_after > 0)
    concave, convex = has_next & (here <= 0) & (there >= 0), has_next & (there <= 0) & (here >= 0)
    change = torch.where(comes_from, t * back, 0.0)
    sure = (after < 0) | (t <= torch.where(after > 0, REACH_EDGE, REACH_SKY))
    change = torch.where(convex, torch.minimum(t * back, other), change)
    change = torch.where(concave, torch.maximum(t * back, other), change)
    change = torch.where(goes_on, t * ahead, change)
    change = torch.where(smooth, t * 0.5 * (back + ahead + t * (ahead - back)), change)
    return change, sure | convex | concave | goes_on | smooth


def _colour_samples(table: RigTable, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per sub-sample: flat atlas index [H * W] of the upper left tap and fractions [H * W, 1] to the right and down."""
    xy, packed = table.atlas_maps  # OpenCV's fixed point: 5 bits of fraction per axis
    first = xy[..., 1].astype(np.int64) * max(c.width for c in table.cameras) + xy[..., 0]
    fx, fy = (packed & 31) / np.float32(32), (packed >> 5) / np.float32(32)

    def part(a: np.ndarray) -> Tensor:
        return torch.from_numpy(a.reshape(-1)).to(device)

    return [(part(first[n]), part(fx[n])[:, None], part(fy[n])[:, None]) for n in range(len(xy))]
