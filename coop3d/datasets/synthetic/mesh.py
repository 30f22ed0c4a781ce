"""Collecting triangles with what is needed to shade them.

All coordinates are UE world axes (left-handed: x forward, y right, z up). A face is wound so that the plain cross
product of its edges points out of the solid: seen from outside, in these left-handed axes, its corners run
clockwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What a surface is, for the shader. Most are plain textures; the rest have a rule of their own.
PLAIN, ROAD, ZEBRA, STOP_LINE, FACADE, PAINTWORK, GLASS, LAMP, GROUND, LEAVES = range(10)

NO_OWNER = -1


@dataclass(frozen=True)
class Mesh:
    """N triangles. Frames: world, UE axes, metres."""

    triangles: NDArray[np.float64]  # [N, 3, 3]
    uv: NDArray[np.float64]  # [N, 3, 2] texture coordinates in repeats (roads: metres across, metres along)
    kind: NDArray[np.int32]  # [N] PLAIN, ROAD, ...
    layer: NDArray[np.int32]  # [N] texture layer
    tint: NDArray[np.float32]  # [N, 3] multiplies the texture
    tag: NDArray[np.int32]  # [N] free number: seed of a facade's windows, style of a road
    owner: NDArray[np.int64]  # [N] vehicle id, NO_OWNER for the town

    def __len__(self) -> int:
        return len(self.triangles)

    def transformed(self, T_world_local: NDArray[np.float64]) -> Mesh:
        """The same mesh moved by a rigid [4, 4] transform."""
        return replace(self, triangles=_moved(self.triangles, T_world_local[:3, :3], T_world_local[:3, 3]))

    def owned_by(self, owner: int) -> Mesh:
        return replace(self, owner=np.full(len(self), owner, np.int64))

    def reordered(self, order: NDArray[np.int64]) -> Mesh:
        return Mesh(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def concatenate(meshes: list[Mesh]) -> Mesh:
    """One mesh out of many (possibly none)."""
    if not meshes:
        i = np.zeros(0, np.int32)
        return Mesh(
            np.zeros((0, 3, 3)),
            np.zeros((0, 3, 2)),
            i,
            i,
            np.zeros((0, 3), np.float32),
            i,
            np.zeros(0, np.int64),
        )
    return Mesh(*(np.concatenate([getattr(m, name) for m in meshes]) for name in Mesh.__dataclass_fields__))


class MeshBuilder:
    """Accumulates faces; the methods add one kind of solid each and return nothing."""

    def __init__(self) -> None:
        self._tri: list = []
        self._uv: list = []
        self._tint: list = []
        self._copies: list[Mesh] = []
        self._attr: list = []  # (number of triangles, kind, layer, tag)

    def add(
        self, tri: ArrayLike, uv: ArrayLike, kind: int, layer: int, tint: ArrayLike, tag: int = 0
    ) -> None:
        """Add [n, 3, 3] triangles with [n, 3, 2] texture coordinates; ``tint`` is [3] or [n, 3]."""
        tri = np.asarray(tri, np.float64).reshape(-1, 3, 3)
        self._tri.append(tri)
        self._uv.append(np.asarray(uv, np.float64).reshape(-1, 3, 2))
        self._tint.append(np.broadcast_to(np.asarray(tint, np.float32), (len(tri), 3)))
        self._attr.append((len(tri), kind, layer, tag))

    def place(self, m: Mesh, T: NDArray[np.float64], scale: float = 1.0, brightness: float = 1.0) -> None:
        """Add a copy of a mesh made around the origin, scaled (texture too), then moved by ``T`` [4, 4]."""
        moved = _moved(m.triangles, T[:3, :3] * scale, T[:3, 3])
        self._copies.append(
            replace(m, triangles=moved, uv=m.uv * scale, tint=m.tint * np.float32(brightness))
        )

    def quad(self, corners: ArrayLike, uv: ArrayLike, kind: int, layer: int, tint, tag: int = 0) -> None:
        """A flat quadrilateral [4, 3], wound so that cross(c1 - c0, c2 - c0) points outwards."""
        c, t = np.asarray(corners, np.float64), np.asarray(uv, np.float64)
        self.add(c[QUAD], t[QUAD], kind, layer, tint, tag)

    def box(self, T, size, layer: int, tint, *, kind: int = PLAIN, period: float = 1.0, tag: int = 0) -> None:
        """A box of full ``size`` (x, y, z) standing on the local plane z = 0, centred in x and y."""
        local = _BOX_CORNERS * (np.asarray(size, np.float64) * [0.5, 0.5, 1.0])
        corners = local @ T[:3, :3].T + T[:3, 3]
        uv = local[_BOX_TRIANGLES[:, :, None], _BOX_UV_AXES[:, None, :]] * np.array([1.0, -1.0]) / period
        self.add(corners[_BOX_TRIANGLES], uv, kind, layer, tint, tag)

    def prism(
        self, bottom, top, layer: int, tint, *, kind: int = PLAIN, period: float = 1.0, tag: int = 0
    ) -> None:
        """A tube between two rings [n, 3] with both ends closed; rings run from x towards y seen as coordinates."""
        bottom, top = np.asarray(bottom, np.float64), np.asarray(top, np.float64)
        n = len(bottom)
        nxt = (np.arange(n) + 1) % n
        around = np.arange(n + 1) / n * np.linalg.norm(bottom - bottom[nxt], axis=1).sum() / period
        high = np.linalg.norm(top.mean(0) - bottom.mean(0)) / period
        quads = np.stack([bottom, bottom[nxt], top[nxt], top], axis=1)  # [n, 4, 3]
        u0, u1 = around[:-1], around[1:]
        uv = np.stack([np.stack([u0, 0 * u0], 1), np.stack([u1, 0 * u0], 1),
                       np.stack([u1, 0 * u0 - high], 1), np.stack([u0, 0 * u0 - high], 1)], axis=1)  # fmt: skip
        self.add(quads[:, QUAD].reshape(-1, 3, 3), uv[:, QUAD].reshape(-1, 3, 2), kind, layer, tint, tag)
        for ring, flip in ((top, False), (bottom, True)):
            fan = np.stack([np.repeat(ring[:1], n - 2, 0), ring[1:-1], ring[2:]], axis=1)
            fan = fan[:, ::-1] if flip else fan
            self.add(fan, fan[:, :, :2] / period, kind, layer, tint, tag)

    def build(self) -> Mesh:
        """Everything added so far, owned by the town."""
        if not self._tri:
            return concatenate(self._copies)
        counts = [a[0] for a in self._attr]
        kind, layer, tag = (np.repeat([a[k] for a in self._attr], counts).astype(np.int32) for k in (1, 2, 3))
        tri = np.concatenate(self._tri)
        owner = np.full(len(tri), NO_OWNER, np.int64)
        own = Mesh(tri, np.concatenate(self._uv), kind, layer, np.concatenate(self._tint), tag, owner)
        return concatenate([own, *self._copies])


def _moved(
    points: NDArray[np.float64], R: NDArray[np.float64], t: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[..., 3] points times a 3x3 matrix plus a shift, as one flat product: much faster than many small ones."""
    return (points.reshape(-1, 3) @ R.T + t).reshape(points.shape)


def placed(x: float, y: float, z: float, yaw_rad: float = 0.0) -> NDArray[np.float64]:
    """[4, 4] pose that turns about z (from x towards y) and moves."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T = np.eye(4)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:3, 3] = x, y, z
    return T


def ring(radius, n: int, T: NDArray[np.float64], z: float, phase: float = 0.0) -> NDArray[np.float64]:
    """[n, 3] points around the local z axis, from x towards y; ``radius`` may be [n]."""
    a = phase + np.arange(n) * (2 * np.pi / n)
    local = np.stack([radius * np.cos(a), radius * np.sin(a), np.full(n, z)], axis=1)
    return local @ T[:3, :3].T + T[:3, 3]


QUAD = np.array([[0, 1, 2], [0, 2, 3]])
_BOX_CORNERS = np.array([[x, y, z] for z in (0, 1) for y in (-1, 1) for x in (-1, 1)], dtype=np.float64)
# Corner numbers: bit 0 = +x, bit 1 = +y, bit 2 = top.
_BOX_FACES = np.array([[1, 3, 7, 5], [2, 0, 4, 6], [3, 2, 6, 7], [0, 1, 5, 4], [4, 5, 7, 6], [0, 2, 3, 1]])
_BOX_TRIANGLES = _BOX_FACES[:, QUAD].reshape(12, 3)
_BOX_UV_AXES = np.repeat([(1, 2), (1, 2), (0, 2), (0, 2), (0, 1), (0, 1)], 2, axis=0)  # [12, 2]
