"""Relative pose of two vehicles from matched surface points whose range is far less certain than their direction.

A camera knows where a ray points to a fraction of a degree, a network knows how far it reaches to some ten per
cent. A matched point is therefore a needle along its ray, not a ball, and alignment weighs it as one: a distant
facade fixes the rotation although its range is metres off. Poses map points of b into a: ``q = R p + t``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.geometry.ray_bundle import Bundle, PointNoise, RayPoints, agreement
from coop3d.geometry.transforms import eye_like, make_rigid

HYPOTHESES = 512  # pairs of matches that are tried
RANKED_BY = 400  # heaviest matches, on which hypotheses are made and compared; refinement uses all
REFINED = 4  # hypotheses
ITERATIONS = 10  # of Gauss-Newton


class Alignment(NamedTuple):
    """Estimated pose, inlier support, covariance."""

    T_a_b: Tensor  # [4, 4] rigid, maps points of b into the frame of a
    support: Tensor  # [] sum of the matches' weights, each times how well it agrees (0 to 1)
    covariance: Tensor  # [6, 6] of (rotation vector in rad, translation in m), in the frame of a


def align(
    a: RayPoints,
    b: RayPoints,
    weights: Tensor,
    noise: PointNoise,
    *,
    tilt: float = 0.1,
    seed: int = 0,
) -> Alignment:
    """Best rigid pose between matched points ``a[m] <-> b[m]``, many of which may be wrong.

    Hypotheses come from pairs of matches that turn about the vertical only: vehicles stand on roads. They are ranked
    by the Mahalanobis distance between the matched points. The best are refined with all six degrees of freedom and
    one latent point per match (bundle adjustment of two views, with ranges), Geman-McClure weights throughout, and the
    one with most support wins. Refinement compares logarithms of ranges: had each point the covariance of its
    *measured* range instead, points measured too near would weigh more and pull the vehicles together, by
    ``1.5 log_range^2`` or 6 % at 0.2.

    Args:
        a, b: M points each, M >= 2; y axes point down.
        weights: [M] >= 0, how much each match is believed.
        noise: of both.
        tilt: standard deviation of the roll and pitch between the two, rad.
        seed: the pairs drawn depend on nothing else.

    Raises:
        ValueError: for fewer than two matches of positive weight.
    """
    if len(weights) < 2 or int((weights > 0).sum()) < 2:
        raise ValueError(f"{int((weights > 0).sum())} matches, expected at least 2 of positive weight")
    heaviest = weights.topk(min(RANKED_BY, len(weights))).indices
    pair = _Pair.of(a.pick(heaviest), b.pick(heaviest), weights[heaviest], noise.pick(heaviest))
    R, t = _level_hypotheses(pair, HYPOTHESES, seed)
    best = pair.support(R, t).topk(min(REFINED, len(R))).indices
    bundle = Bundle(a, b, weights, noise, tilt, R[best], t[best])
    for _ in range(ITERATIONS):
        bundle.step()
    support = bundle.agreement() @ weights
    winner = int(support.nan_to_num(nan=-1.0).argmax())  # argmax would prefer NaN
    T = make_rigid(bundle.R[winner], bundle.t[winner])
    return Alignment(T, support[winner], torch.linalg.inv_ex(bundle.information()[winner]).inverse)


@dataclass(frozen=True)
class _Pair:
    """Matched points with their covariance ``across I + along ray ray^T`` each."""

    p: Tensor  # [M, 3] of b
    q: Tensor  # [M, 3] of a
    ray_p: Tensor  # [M, 3]
    ray_q: Tensor  # [M, 3]
    across: Tensor  # [M] square metres, both points together
    along_p: Tensor  # [M] square metres
    along_q: Tensor  # [M]
    weights: Tensor  # [M]

    @classmethod
    def of(cls, a: RayPoints, b: RayPoints, weights: Tensor, noise: PointNoise) -> _Pair:
        across, along = [], []
        for range_m in (b.range_m, a.range_m):
            across.append((noise.angle * range_m) ** 2 + noise.floor_m**2)
            along.append(((noise.log_range * range_m) ** 2 - (noise.angle * range_m) ** 2).clamp_min(0))
        return cls(b.points, a.points, b.rays, a.rays, across[0] + across[1], along[0], along[1], weights)

    def residual(self, R: Tensor, t: Tensor) -> Tensor:
        """[K, M, 3] metres for K poses [K, 3, 3], [K, 3]."""
        return self.p @ R.mT + t[:, None] - self.q

    def squared_distance(self, R: Tensor, t: Tensor) -> Tensor:
        """[K, M] ``e^T C^-1 e`` of the residuals, by Woodbury's identity: two needles are a rank-two update of C."""
        e = self.residual(R, t)[..., None]
        needle_p = (self.ray_p @ R.mT) * self.along_p.sqrt()[:, None]
        needle_q = (self.ray_q * self.along_q.sqrt()[:, None]).expand_as(needle_p)
        needles = torch.stack([needle_p, needle_q], dim=-1)  # [K, M, 3, 2]
        inner = needles.mT @ needles + self.across[:, None, None] * eye_like(2, e)
        x, y, z = inner[..., 0, 0], inner[..., 0, 1], inner[..., 1, 1]
        u, v = (needles.mT @ e)[..., 0].unbind(-1)
        along = (z * u * u - 2 * y * u * v + x * v * v) / (x * z - y * y)
        return (e[..., 0].square().sum(-1) - along) / self.across

    def support(self, R: Tensor, t: Tensor) -> Tensor:
        """[K]."""
        return agreement(self.squared_distance(R, t)) @ self.weights


def _level_hypotheses(pair: _Pair, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Turn about the vertical and translation from pairs of matches: [K, 3, 3], [K, 3]."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    odds = pair.weights.detach().cpu().double()
    first = torch.multinomial(odds, count, replacement=True, generator=generator)
    second = torch.multinomial(odds, count, replacement=True, generator=generator)
    differ = first != second
    first, second = first[differ].to(pair.p.device), second[differ].to(pair.p.device)
    if not len(first):  # one match has all the weight
        order = pair.weights.argsort(descending=True)
        first, second = order[:1], order[1:2]
    dp, dq = pair.p[second] - pair.p[first], pair.q[second] - pair.q[first]
    yaw = torch.atan2(dq[:, 0], dq[:, 2]) - torch.atan2(dp[:, 0], dp[:, 2])
    R = level_rotation(yaw)
    offsets = [pair.q[k] - (R @ pair.p[k][..., None])[..., 0] for k in (first, second)]
    near = [1 / (pair.across + pair.along_p + pair.along_q)[k] for k in (first, second)]
    t = (offsets[0] * near[0][:, None] + offsets[1] * near[1][:, None]) / (near[0] + near[1])[:, None]
    return R, t


def level_rotation(yaw: Tensor) -> Tensor:
    """[...] rad, positive to the right (about y, which points down), to [..., 3, 3]."""
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=-1).unflatten(-1, (3, 3))
