"""An analytic street: a road, walls and boxes, so that every range is a closed form; no files, no renderer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from coop3d.datasets.coop import make_batch
from coop3d.geometry import (
    EquirectangularCamera,
    matrix_to_quat,
    transform_points,
    yaw_rotation,
)
from coop3d.types import CoopBatch, FactoredPrediction, Panorama, SampleKey

ROAD_Y = 1.9  # metres below the sensor, OpenCV axes (y down)
# Axis-aligned boxes: (low corner, high corner) in the world; houses, two parked cars, a thin post.
BOXES = np.array(
    [
        [[-30, -10, -60], [-12, ROAD_Y, 5]],
        [[-30, -7, 14], [-12, ROAD_Y, 90]],
        [[14, -12, -60], [30, ROAD_Y, 30]],
        [[14, -5, 40], [30, ROAD_Y, 90]],
        [[4.5, 0.4, 9], [6.5, ROAD_Y, 13.5]],
        [[-7, 0.2, -14], [-5, ROAD_Y, -9]],
        [[8.0, -4, 18], [8.3, ROAD_Y, 18.3]],
    ],
    dtype=float,
)
BOX_RGB = np.array(
    [
        [176, 96, 74],
        [214, 190, 150],
        [120, 130, 150],
        [196, 164, 88],
        [190, 30, 40],
        [40, 70, 170],
        [30, 30, 30],
    ]
)
CAMERAS = np.array([[0.0, 0.3, 2.0], [1.0, 0.2, 0.0], [0.0, 0.3, -2.0], [-1.0, 0.2, 0.0]])  # pano frame
MAX_RANGE_M = 150.0


def cast(origins: NDArray, rays: NDArray) -> tuple[NDArray, NDArray]:
    """[..., 3] world origins and unit rays to ([...] range, NaN = sky; [..., 3] uint8 colour)."""
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    with np.errstate(divide="ignore"):
        best = np.where(rays[..., 1] > 1e-9, (ROAD_Y - origins[..., 1]) / rays[..., 1], np.inf)
    hit = origins + np.where(np.isfinite(best), best, 0)[..., None] * rays
    stripe = (np.abs(hit[..., 0]) < 0.15) & (np.mod(hit[..., 2], 6) < 3)
    tiles = (np.floor(hit[..., 0] / 2) + np.floor(hit[..., 2] / 2)) % 2
    rgb = np.where(stripe[..., None], 235, (88 + 14 * tiles)[..., None]) * np.ones(3)
    for (low, high), colour in zip(BOXES, BOX_RGB, strict=True):
        t1, t2 = (low - origins) / rays, (high - origins) / rays
        near, far = np.minimum(t1, t2), np.maximum(t1, t2)
        enter, leave = near.max(axis=-1), far.min(axis=-1)
        closer = (enter > 1e-3) & (enter < leave) & (enter < best)
        best = np.where(closer, enter, best)
        shade = 1.0 - 0.16 * near.argmax(axis=-1)
        rgb = np.where(closer[..., None], colour * shade[..., None], rgb)
    sky = ~(best < MAX_RANGE_M)
    rgb[sky] = (150, 190, 235)
    return np.where(sky, np.nan, best).astype(np.float32), rgb.astype(np.uint8)


def panorama(T_world_pano: NDArray, agent: str = "641", width: int = 252) -> Panorama:
    """What a vehicle at ``T_world_pano`` sees of the street, with 4 cameras and a blind wedge under the car."""
    camera = EquirectangularCamera(width, width // 4)
    rays = camera.rays()
    azimuth = np.arctan2(rays[..., 0], rays[..., 2])
    source = (np.round(azimuth / (np.pi / 2)) % 4).astype(np.uint8)
    covered = rays[..., 1] < 0.62
    source[~covered] = 255
    origins = np.where(covered[..., None], CAMERAS[source % 4], 0.0)
    world_rays = rays @ T_world_pano[:3, :3].T
    world_origins = transform_points(T_world_pano, origins)
    range_m, rgb = cast(world_origins, world_rays)
    range_m[~covered] = np.nan
    rgb[~covered] = 0
    return Panorama(
        key=SampleKey("street_2021", agent, "000069"),
        camera=camera,
        kind="rig",
        rgb=rgb,
        range_m=range_m,
        source=source,
        origins=CAMERAS.astype(np.float32),
        covered=covered,
        valid=np.isfinite(range_m),
        non_ambiguous=np.isfinite(range_m),
        mask_known=np.ones_like(covered),
        T_world_pano=T_world_pano,
    )


def pose(x: float, z: float, yaw_deg: float) -> NDArray[np.float64]:
    """[4, 4] world pose on the road."""
    T = yaw_rotation(np.radians(yaw_deg))
    T[:3, 3] = [x, 0.0, z]
    return T


POSES = [pose(0, 0, 0), pose(3, 22, 180), pose(-3, -18, 2), pose(2, 48, 185), pose(-9, 9, 90), pose(-3, 60, 0),
         pose(3, -40, 0)]  # fmt: skip


@lru_cache
def batch(agents: tuple[str, ...] = ("641", "650"), width: int = 252) -> CoopBatch:
    """One cooperative sample of as many vehicles as names (at most 7)."""
    panoramas = [panorama(T, agent, width) for T, agent in zip(POSES, agents, strict=False)]
    return make_batch([(p,) for p in panoramas])


def prediction(
    truth: CoopBatch, noise: float = 0.03, shift_m: float = 0.8, seed: int = 0
) -> FactoredPrediction:
    """The truth, spoilt: relative range noise, other vehicles shifted to the right; exact at ``noise = shift = 0``."""
    targets, scale = truth.targets, 20.0
    generator = torch.Generator().manual_seed(seed)
    wobble = 1 + noise * torch.randn(targets.range_m.shape, generator=generator)
    trans = targets.T_ref_view[..., :3, 3].clone()
    trans[:, 1:, 0] += shift_m
    known = torch.isfinite(targets.range_m)
    return FactoredPrediction(
        rays=targets.rays,
        distance=torch.where(known, targets.range_m, torch.tensor(70.0)) * wobble / scale,
        trans=trans / scale,
        quat_xyzw=matrix_to_quat(targets.T_ref_view[..., :3, :3]),
        scale=torch.tensor([scale]),
        confidence=1 + 60 / torch.where(known, targets.range_m, torch.tensor(1e3)),
        mask_logits=torch.where(known, 3.0, -3.0),
        origins=targets.origins,
    )
