"""An image as a grid of equal cells, each of which stands for its middle pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CellGrid(NamedTuple):
    """Images of equally many cells, which are numbered row by row, one image after another."""

    rows: int  # of each image
    columns: int
    wraps: bool = False  # the first column is beside the last one

    def around(self, cells: Tensor) -> Tensor:
        """Numbers [..., 9] of cells [...] and of those around each in its image; -1 beyond a border."""
        number = torch.arange(9, device=cells.device)
        row = (cells // self.columns % self.rows)[..., None] + number // 3 - 1
        column = (cells % self.columns)[..., None] + number % 3 - 1
        inside = (row >= 0) & (row < self.rows)
        if self.wraps:
            column = column % self.columns
        else:
            inside &= (column >= 0) & (column < self.columns)
        image = cells[..., None] // (self.rows * self.columns)
        return torch.where(inside, (image * self.rows + row) * self.columns + column, -1)

    def largest_around(self, x: Tensor, axis: int) -> Tensor:
        """Largest value of each cell and those around it: the same shape; ``axis`` >= 0 is that of cells."""
        maps = x.unflatten(axis, (-1, self.rows, self.columns))
        largest = _largest_of_three(maps, axis + 2, self.wraps)
        return _largest_of_three(largest, axis + 1, wraps=False).flatten(axis, axis + 2)

    def peaks(self, x: Tensor, axis: int) -> Tensor:
        """Where values are at least as large as all around: bool, the same shape; ``axis`` >= 0 is that of cells."""
        return x >= self.largest_around(x, axis)


def _largest_of_three(x: Tensor, axis: int, wraps: bool) -> Tensor:
    """Of every value and its two neighbours along an axis; several times as fast as `max_pool2d` on a CPU."""
    before, after = x.roll(1, axis), x.roll(-1, axis)
    if not wraps:
        before.narrow(axis, 0, 1).fill_(-torch.inf)
        after.narrow(axis, -1, 1).fill_(-torch.inf)
    return before.maximum(after).maximum(x)


def at_cells(x: Tensor, grid: tuple[int, int], rows_axis: int) -> Tensor:
    """Values of the cells' middle pixels, row-major: [..., H, W, ...] to [..., cells, ...].

    Args:
        x: with image rows on ``rows_axis`` and columns on the next axis.
        grid: rows and columns of cells; they need not divide the image.
        rows_axis: counted from the front.
    """
    for axis, cells in enumerate(grid, start=rows_axis):
        size = x.shape[axis]
        middle = ((torch.arange(cells, device=x.device) + 0.5) * (size / cells)).long()
        x = x.index_select(axis, middle)
    return x.flatten(rows_axis, rows_axis + 1)


def cell_angle(rays: Tensor, grid: tuple[int, int]) -> float:
    """Median angle between the unit rays [..., cells, 3] of horizontal neighbours in the middle row, rad.

    One number for a whole image: right for panoramas, whose columns are equal angles.
    """
    middle = rays.unflatten(-2, grid)[..., grid[0] // 2, :, :]
    return float(
        torch.linalg.cross(middle[..., 1:, :], middle[..., :-1, :], dim=-1).norm(dim=-1).median().arcsin()
    )


def cell_angles(rays: Tensor, grid: tuple[int, int]) -> Tensor:
    """Side of the square as large as each cell, rad: unit rays [..., cells, 3] through their middles to [..., cells].

    For photographs: at the border of one that is 100 degrees wide, a cell is less than half as wide as in the middle.
    The root of the area that the steps to the next column and the next row span.

    Raises:
        ValueError: the grid has a single row or column.
    """
    if min(grid) < 2:
        raise ValueError(f"{grid[0]} x {grid[1]} matching cells have no neighbours to tell their size by")
    order = 1 if min(grid) == 2 else 2
    down, right = torch.gradient(rays.unflatten(-2, grid), dim=(-3, -2), edge_order=order)
    return torch.linalg.cross(right, down, dim=-1).norm(dim=-1).sqrt().flatten(-2)


def cell_walls(rays: Tensor, columns: int) -> Tensor:
    """Planes through the sides of each cell: [..., cells, 4, 3] unit normals that point into it.

    Seen from the ray's origin, a direction ``d`` lies ``asin(d . normal)`` inside a side. Sides are great circles,
    which is exact for pinholes without distortion. Corners are half a pixel beyond the outermost pixels' centres.

    Args:
        rays: [..., cells, pixels, 3] unit rays of each cell's pixels, row-major, two rows and columns at least.
        columns: pixels per row of a cell.

    Raises:
        ValueError: cells of a single row or column of pixels.
    """
    pixels = rays.unflatten(-2, (-1, columns))
    if min(pixels.shape[-3:-1]) < 2:
        raise ValueError(
            f"matching cells of {pixels.shape[-3]} x {columns} pixels are too small to have sides"
        )
    corners = torch.stack(
        [_beyond(pixels, *ends) for ends in ((0, 0), (0, -1), (-1, -1), (-1, 0))], dim=-2
    )  # clockwise as x goes right and y down, so that cross products of successive ones point inwards
    return F.normalize(torch.linalg.cross(corners, corners.roll(-1, -2), dim=-1), dim=-1)


def _beyond(pixels: Tensor, row: int, column: int) -> Tensor:
    """Half a pixel outwards from a corner pixel (0 or -1) of [..., h, w, 3]: [..., 3]."""
    corner = pixels[..., row, column, :]
    inner_row, inner_column = (1 if end == 0 else -2 for end in (row, column))
    return 2 * corner - 0.5 * (pixels[..., inner_row, column, :] + pixels[..., row, inner_column, :])
