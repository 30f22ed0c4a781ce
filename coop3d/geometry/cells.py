"""An image as a grid of equal cells, each of which stands for its middle pixel."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Median angle between the unit rays [..., cells, 3] of horizontal neighbours in the middle row, rad."""
    middle = rays.unflatten(-2, grid)[..., grid[0] // 2, :, :]
    return float(
        torch.linalg.cross(middle[..., 1:, :], middle[..., :-1, :], dim=-1).norm(dim=-1).median().arcsin()
    )
