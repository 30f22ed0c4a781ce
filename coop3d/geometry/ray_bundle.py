"""Two vehicles, their relative pose and the points both see: Gauss-Newton with the points eliminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SCALE = 3.0  # standard deviations at which a match begins to count as wrong


@dataclass(frozen=True, kw_only=True)
class PointNoise:
    """How uncertain a matched point is.

    Attributes:
        angle: standard deviation of a direction, rad; about half a matching cell.
        log_range: standard deviation of the logarithm of a range.
        floor_m: standard deviation across the ray that remains at zero range, metres.
    """

    angle: float = 0.03
    log_range: float = 0.2
    floor_m: float = 0.1

    def __post_init__(self) -> None:
        for name in ("angle", "log_range", "floor_m"):
            if not getattr(self, name) > 0:
                raise ValueError(f"PointNoise.{name} is {getattr(self, name)}, expected a number > 0")


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
    by_point: Tensor  # [K, M, 4, 3] derivative by the point, in the frame of the vehicle that measured


class Bundle:
    """K hypotheses of one relative pose, refined side by side.

    A match's latent point X, in the frame of a, is compared with what each vehicle measured: the direction from
    the ray's origin and the logarithm of the range. The points are eliminated by the Schur complement, so that a
    step solves 6 x 6 systems only.

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
        ra, rb, pose_b, V, toward = self._linearise()
        S, g, W, Vi = self._reduced(ra, rb, pose_b, V, toward)
        change = -torch.linalg.solve(S, g)
        points = -(Vi @ (toward + (W @ change[:, None, :, None])))[..., 0]
        self.R = torch.linalg.matrix_exp(skew(change[:, :3])) @ self.R
        self.t = self.t + change[:, 3:]
        self.X = self.X + self._limited(points)

    def agreement(self) -> Tensor:
        """[K, M] between 0 and 1."""
        ra, rb = self._residuals()
        return agreement(ra.value.square().sum(-1) + rb.value.square().sum(-1))

    def information(self) -> Tensor:
        """[K, 6, 6] inverse covariance of (rotation vector, translation)."""
        return self._reduced(*self._linearise())[0]

    def _residuals(self) -> tuple[_Residuals, _Residuals]:
        in_b = (self.X - self.t[:, None]) @ self.R
        return _compare(self.X, self.a, self.noise), _compare(in_b, self.b, self.noise)

    def _linearise(self) -> tuple[_Residuals, _Residuals, Tensor, Tensor, Tensor]:
        """Residuals, d (those of b) / d pose [K, M, 4, 6], and the points' own normal equations."""
        ra, rb = self._residuals()
        to_b = self.R.mT[:, None]  # dY / dX
        point_b = rb.by_point @ to_b
        # Y = R^T (X - t); turning R by w and moving t by d changes it by R^T ([X - t]x w - d)
        turn = skew(self.X - self.t[:, None])
        shift = -torch.eye(3).to(turn).expand_as(turn)
        pose_b = point_b @ torch.cat([turn, shift], dim=-1)
        rb = rb._replace(by_point=point_b)
        V = ra.by_point.mT @ ra.by_point + point_b.mT @ point_b
        toward = ra.by_point.mT @ ra.value[..., None] + point_b.mT @ rb.value[..., None]
        return ra, rb, pose_b, V, toward

    def _reduced(
        self, ra: _Residuals, rb: _Residuals, pose_b: Tensor, V: Tensor, toward: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """System of the poses alone, S [K, 6, 6] and g [K, 6]; coupling W [K, M, 3, 6]; inverse of V."""
        w = self.weights * agreement(ra.value.square().sum(-1) + rb.value.square().sum(-1))
        Vi = torch.linalg.inv(V + 1e-9 * torch.eye(3).to(V))
        W = rb.by_point.mT @ pose_b
        S = w[..., None, None] * (pose_b.mT @ pose_b - W.mT @ Vi @ W)
        g = w[..., None] * (pose_b.mT @ rb.value[..., None] - W.mT @ Vi @ toward)[..., 0]
        # The vertical of b as a sees it: its horizontal parts are the tilt.
        down = self.R[:, :, 1]
        J = -skew(down)[:, [0, 2]]
        prior = torch.nn.functional.pad(J.mT @ J, (0, 3, 0, 3)) / self.tilt**2
        pull = torch.nn.functional.pad((J.mT @ down[:, [0, 2], None])[..., 0], (0, 3)) / self.tilt**2
        return S.sum(dim=1) + prior + 1e-6 * torch.eye(6).to(S), g.sum(dim=1) + pull, W, Vi

    def _triangulate(self) -> None:
        """Points that fit best, poses held."""
        *_, V, toward = self._linearise()
        points = -(torch.linalg.inv(V + 1e-9 * torch.eye(3).to(V)) @ toward)[..., 0]
        self.X = self.X + self._limited(points)

    def _limited(self, change: Tensor) -> Tensor:
        """Steps of at most half the distance to the point: beyond, a logarithm is no straight line."""
        longest = 0.5 * (self.X - self.a.origins).norm(dim=-1, keepdim=True)
        length = change.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return change * (longest / length).clamp_max(1.0)


def _compare(X: Tensor, measured: RayPoints, noise: PointNoise) -> _Residuals:
    """Points X [K, M, 3] in a vehicle's frame against what it measured [M]."""
    offset = X - measured.origins
    distance = offset.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    ray = offset / distance
    angle = (noise.angle**2 + (noise.floor_m / distance.detach()) ** 2).sqrt()  # [K, M, 1]
    across = (ray - measured.rays) / angle
    depth = (distance[..., 0] / measured.range_m.clamp_min(1e-3)).log() / noise.log_range
    outer = ray[..., :, None] * ray[..., None, :]
    by_direction = (torch.eye(3).to(X) - outer) / (distance * angle)[..., None]
    by_range = ray / (distance * noise.log_range)
    return _Residuals(
        torch.cat([across, depth[..., None]], dim=-1),
        torch.cat([by_direction, by_range[..., None, :]], dim=-2),
    )


def skew(v: Tensor) -> Tensor:
    """[..., 3] to the matrix [..., 3, 3] of its cross product."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
