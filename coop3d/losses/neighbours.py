"""Which pixels of an image are neighbours in the world, and what follows for edges between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.losses.robust import squared_distance
from coop3d.types import ViewTargets

# One tensor per coordinate, several times faster here than a last axis of three. [B, V, H, W] each.
Vector = tuple[Tensor, Tensor, Tensor]


def ahead(x: Tensor, step: int, dim: int) -> Tensor:
    """Value ``step`` pixels further along ``dim``, circular."""
    return torch.roll(x, -step, dims=dim)


class Neighbours(NamedTuple):
    """Whether the next pixel counts as a neighbour; the last row and column wrap to the first."""

    right: Tensor  # [B, V, H, W] bool
    down: Tensor  # [B, V, H, W] bool

    def within(self, valid: Tensor) -> Neighbours:
        """Only where both pixels are ``valid`` [B, V, H, W]."""
        return Neighbours(self.right & valid & ahead(valid, 1, -1), self.down & valid & ahead(valid, 1, -2))

    def reaching(self, step: int) -> Neighbours:
        """From 'one pixel on' to ``step`` pixels on, a power of two: no gap anywhere between."""
        right, down, reach = self.right, self.down, 1
        while reach < step:
            right, down = right & ahead(right, reach, -1), down & ahead(down, reach, -2)
            reach *= 2
        return Neighbours(right, down)


def image_neighbours(targets: ViewTargets) -> Neighbours:
    """Plain image: every next pixel but past the last row and column."""
    right, down = torch.ones_like(targets.valid), torch.ones_like(targets.valid)
    right[..., -1] = False
    down[..., -1, :] = False
    return Neighbours(right, down)


def panorama_neighbours(targets: ViewTargets) -> Neighbours:
    """Neighbours of one source camera, around the seam.

    Across a border of ``targets.source`` two cameras with different centres meet: range jumps there although
    the surface does not. The last column is joined to the first where their rays are neighbours, that is in a
    full circle; in a plain photograph they are not. The last row is joined to nothing.
    """
    source, rays = targets.source, targets.rays
    right, down = (source == ahead(source, 1, dim) for dim in (-1, -2))
    seam = squared_distance(rays[..., -1, :], rays[..., 0, :])  # [B, V, H]
    usual = squared_distance(rays[..., -2:, :][..., 0, :], rays[..., -1, :])
    right[..., -1] &= seam < 4 * usual
    down[..., -1, :] = False
    return Neighbours(right, down)


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product."""
    (ax, ay, az), (bx, by, bz) = a, b
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


def dot(a: Vector, b: Vector) -> Tensor:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def corner_normals(points: Vector) -> list[Vector]:
    """Normals at the four corners of every cell of 2 x 2 pixels, not of unit length, all on the same side.

    Each is the cross product of the horizontal and the vertical edge that meet in the corner.

    Args:
        points: [B, V, H, W] each, circular; cells past an edge of the image are to be masked.

    Returns:
        Top left, top right, bottom left, bottom right of the cell that starts at a pixel.
    """
    top = _edges(points, -1)
    left = _edges(points, -2)
    bottom, right = _moved(top, -2), _moved(left, -1)
    return [cross(h, v) for h in (top, bottom) for v in (left, right)]


def corner_mask(edges: Neighbours) -> Tensor:
    """Corners of which both edges exist: [B, V, 4, H, W] bool, in the order of `corner_normals`."""
    bottom, right = ahead(edges.right, 1, -2), ahead(edges.down, 1, -1)
    return torch.stack([h & v for h in (edges.right, bottom) for v in (edges.down, right)], dim=2)


def _moved(v: Vector, dim: int) -> Vector:
    return ahead(v[0], 1, dim), ahead(v[1], 1, dim), ahead(v[2], 1, dim)


def _edges(points: Vector, dim: int) -> Vector:
    x, y, z = _moved(points, dim)
    return x - points[0], y - points[1], z - points[2]
