"""Four photographs per vehicle of the analytic street, in the vehicle's frame: every range is a closed form."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from support.analytic_panoramas import POSES, cast, prediction

from coop3d.datasets import make_batch
from coop3d.geometry import MountedCamera, PinholeCamera, transform_points
from coop3d.types import CoopBatch, FactoredPrediction, Panorama, SampleKey

CAMERA = PinholeCamera.from_hfov(96, 64, 100.0)
K = 4
# Yaw, pitch and roll in degrees, and centres in metres: tilted a little, overlapping behind as OPV2V's
TURNS = Rotation.from_euler(
    "yxz", [[2, -3, 0], [99, 2, 2], [-101, 0, -2], [178, 4, 1]], degrees=True
).as_matrix()
CENTRES = np.array([[0.1, 0.4, 1.9], [0.9, 0.1, 0.2], [-0.8, 0.2, -0.1], [0.0, 0.3, -2.1]])
TILTS = [(2.0, -1.0), (-1.5, 2.0), (0.5, 2.5)]  # pitch and roll of the vehicles


def vehicle_pose(n: int) -> NDArray[np.float64]:
    """[4, 4] world pose of vehicle n: `POSES`, on an uneven road."""
    T = POSES[n].copy()
    pitch, roll = TILTS[n]
    T[:3, :3] = T[:3, :3] @ Rotation.from_euler("xz", [pitch, roll], degrees=True).as_matrix()
    return T


def photographs(T_world_vehicle: NDArray[np.float64], agent: str) -> tuple[Panorama, ...]:
    """What a vehicle's cameras see of the street."""
    views = []
    for R, centre in zip(TURNS, CENTRES, strict=True):
        camera = MountedCamera(CAMERA, R)
        directions = CAMERA.rays() @ R.T @ T_world_vehicle[:3, :3].T
        origins = np.broadcast_to(transform_points(T_world_vehicle, centre[None])[0], directions.shape)
        range_m, rgb = cast(origins, directions)
        seen, everywhere = np.isfinite(range_m), np.ones(range_m.shape, bool)
        views.append(
            Panorama(
                key=SampleKey("street_2021", agent, "000069"),
                camera=camera,
                kind="rig",
                rgb=rgb,
                range_m=range_m,
                source=np.zeros(range_m.shape, np.uint8),
                origins=centre[None].astype(np.float32),
                covered=everywhere,
                valid=seen,
                non_ambiguous=seen,
                mask_known=everywhere,
                T_world_pano=T_world_vehicle,
            )
        )
    return tuple(views)


@lru_cache
def fused_batch(vehicles: int = 2) -> CoopBatch:
    """One sample of at most three vehicles."""
    return make_batch([photographs(vehicle_pose(n), str(641 + n)) for n in range(vehicles)])


def fused_prediction(truth: CoopBatch, shift_m: float = 25.0) -> FactoredPrediction:
    """Exact but for the other vehicles' places, which are ``shift_m`` to the right."""
    p = prediction(truth, noise=0.0, shift_m=0.0)
    trans = p.trans.clone()
    trans[:, K:, 0] += shift_m / p.scale
    return replace(p, trans=trans)
