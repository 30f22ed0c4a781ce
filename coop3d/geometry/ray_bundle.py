"""Two vehicles, their relative pose and the points both see: Gauss-Newton with the points eliminated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.geometry.transforms import eye_like, rotation_from_vector, skew

SCALE = 3.0  # standard deviations at which a match begins to count as wrong


@dataclass(frozen=True, kw_only=True)
class PointNoise:
    """How uncertain a matched point is.

    Attributes:
        angle: standard deviation of a direction, rad; about half a matching cell. One for all points, or [M].
        log_range: standard deviation of the logarithm of a range.
        floor_m: standard deviation across the ray that remains at zero range, metres.
    """

    angle: float | Tensor = 0.03
    log_range: float = 0.2
    floor_m: float = 0.1

    def __post_init__(self) -> None:
        for name in ("angle", "log_range", "floor_m"):
            value = getattr(self, name)
            if not bool((value > 0).all() if isinstance(value, Tensor) else value > 0):
                raise ValueError(f"PointNoise.{name} is {value}, expected a number > 0")

    def pick(self, index: Tensor) -> PointNoise:
        """That of the points at ``index``."""
        return replace(self, angle=self.angle[index]) if isinstance(self.angle, Tensor) else self


class RayPoints(NamedTuple):
    """Surface points ``origins + range_m * rays`` of one vehicle, in its own frame."""

    origins: Tensor  # [..., M, 3] metres
    rays: Tensor  # [..., M, 3] unit
    range_m: Tensor  # [..., M] metres

    @property
    def points(self) -> Tensor:
        """[..., M, 3] metres."""
        return self.origins + self.range_m[..., None] * self.rays

    def pick(self, index: Tensor) -> RayPoints:
        """Those at ``index`` along the M axis, which must be the first one."""
        return RayPoints(self.origins[index], self.rays[index], self.range_m[index])


def agreement(squared: Tensor) -> Tensor:
    """Geman-McClure's weight of squared standard deviations: 1 for none, 1/4 at `SCALE`, towards 0 beyond."""
    return 1 / (1 + squared / SCALE**2) ** 2


class _Residuals(NamedTuple):
    """Of K hypotheses and M matches, in standard deviations: three of the direction, one of the log range."""

    value: Tensor  # [K, M, 4]
    by_point: Tensor  # [K, M, 4, 3] derivative by the point

    @property
    def squared(self) -> Tensor:
        """[K, M] squared standard deviations."""
        return self.value.square().sum(-1)


class _Points(NamedTuple):
    """Both vehicles' residuals by the points X, and the points' own normal equations ``V dX = -toward``."""

    a: _Residuals
    b: _Residuals  # derivatives in the frame of a, too
    inverse: Tensor  # [K, M, 3, 3] of V
    toward: Tensor  # [K, M, 3, 1]

    @property
    def agreement(self) -> Tensor:
        """[K, M] between 0 and 1."""
        return agreement(self.a.squared + self.b.squared)


class _Poses(NamedTuple):
    """The poses' normal equations ``S dpose = -g`` once the points are eliminated, and how points follow poses."""

    S: Tensor  # [K, 6, 6]
    g: Tensor  # [K, 6]
    coupling: Tensor  # [K, M, 3, 6]


class Bundle:
    """K hypotheses of one relative pose, refined side by side.

    A match's latent point X, in the frame of a, is compared with what each vehicle measured: the direction from
    the ray's origin and the logarithm of the range. The points are eliminated by the Schur complement, so that a
    step solves 6 x 6 systems only. Nobody asks whether a matrix is singular (none is, by sound numbers): a GPU would
    have to wait for the answer in every step.

    Args:
        a, b: M points each.
        weights: [M].
        noise: of both.
        tilt: standard deviation of roll and pitch between the two, rad.
        R, t: [K, 3, 3] and [K, 3] to start from.
    """

    def __init__(
        self,
        a: RayPoints,
        b: RayPoints,
        weights: Tensor,
        noise: PointNoise,
        tilt: float,
        R: Tensor,
        t: Tensor,
    ) -> None:
        self.a, self.b, self.weights, self.noise, self.tilt = a, b, weights, noise, tilt
        self.R, self.t = R, t
        self.X = (0.5 * (a.points + b.points @ R.mT + t[:, None])).contiguous()
        for _ in range(3):
            self._triangulate()

    def step(self) -> None:
        """Gauss-Newton on poses and points."""
        points = self._linearise()
        poses = self._eliminate(points)
        change = -torch.linalg.solve_ex(poses.S, poses.g).result
        follow = poses.coupling @ change[:, None, :, None]
        self._move(-(points.inverse @ (points.toward + follow))[..., 0])
        self.R = rotation_from_vector(change[:, :3]) @ self.R
        self.t = self.t + change[:, 3:]

    def agreement(self) -> Tensor:
        """[K, M] between 0 and 1."""
        return self._linearise().agreement

    def information(self) -> Tensor:
        """[K, 6, 6] inverse covariance of (rotation vector, translation)."""
        return self._eliminate(self._linearise()).S

    def _triangulate(self) -> None:
        """Towards the points that fit best, poses held."""
        points = self._linearise()
        self._move(-(points.inverse @ points.toward)[..., 0])

    def _linearise(self) -> _Points:
        a = _compare(self.X, self.a, self.noise)
        b = _compare((self.X - self.t[:, None]) @ self.R, self.b, self.noise)
        b = b._replace(by_point=b.by_point @ self.R.mT[:, None])
        V = a.by_point.mT @ a.by_point + b.by_point.mT @ b.by_point
        toward = a.by_point.mT @ a.value[..., None] + b.by_point.mT @ b.value[..., None]
        return _Points(a, b, torch.linalg.inv_ex(V + 1e-9 * eye_like(3, V)).inverse, toward)

    def _eliminate(self, points: _Points) -> _Poses:
        b = points.b
        # Y = R^T (X - t); turning R by w and moving t by d changes it by R^T ([X - t]x w - d)
        turn = skew(self.X - self.t[:, None])
        shift = -eye_like(3, turn).expand_as(turn)
        by_pose = b.by_point @ torch.cat([turn, shift], dim=-1)  # [K, M, 4, 6]
        coupling = b.by_point.mT @ by_pose
        follow = coupling.mT @ points.inverse
        w = self.weights * points.agreement
        S = w[..., None, None] * (by_pose.mT @ by_pose - follow @ coupling)
        g = w[..., None] * (by_pose.mT @ b.value[..., None] - follow @ points.toward)[..., 0]
        # The vertical of b as a sees it: its horizontal parts are the tilt.
        down = self.R[:, :, 1]
        J = -skew(down)[:, [0, 2]]
        prior = torch.nn.functional.pad(J.mT @ J, (0, 3, 0, 3)) / self.tilt**2
        pull = torch.nn.functional.pad((J.mT @ down[:, [0, 2], None])[..., 0], (0, 3)) / self.tilt**2
        return _Poses(
            S.sum(dim=1) + prior + 1e-6 * eye_like(6, S),
            g.sum(dim=1) + pull,
            coupling,
        )

    def _move(self, change: Tensor) -> None:
        """Move the points by at most half their distance: beyond, a logarithm is no straight line."""
        longest = 0.5 * (self.X - self.a.origins).norm(dim=-1, keepdim=True)
        length = change.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        self.X = self.X + change * (longest / length).clamp_max(1.0)


def _compare(X: Tensor, measured: RayPoints, noise: PointNoise) -> _Residuals:
    """Points X [K, M, 3] in a vehicle's frame against what it measured [M]."""
    offset = X - measured.origins
    distance = offset.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    ray = offset / distance
    aim = noise.angle[:, None] if isinstance(noise.angle, Tensor) else noise.angle
    angle = (aim**2 + (noise.floor_m / distance.detach()) ** 2).sqrt()  # [K, M, 1]
    across = (ray - measured.rays) / angle
    depth = (distance[..., 0] / measured.range_m.clamp_min(1e-3)).log() / noise.log_range
    outer = ray[..., :, None] * ray[..., None, :]
    by_direction = (eye_like(3, X) - outer) / (distance * angle)[..., None]
    by_range = ray / (distance * noise.log_range)
    return _Residuals(
        torch.cat([across, depth[..., None]], dim=-1),
        torch.cat([by_direction, by_range[..., None, :]], dim=-2),
    )
