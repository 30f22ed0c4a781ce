"""Wrong calibration: a vehicle assumes other mounting poses than those its photographs were taken with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from coop3d.datasets.disturb.base import Disturbance
from coop3d.types import RigFrame


@dataclass(frozen=True)
class RigRotation(Disturbance):
    """Every camera is believed to be turned by this angle about a random axis through its own centre.

    The axis is drawn once per vehicle and camera, uniformly over the sphere: yaw, pitch and roll mixed.
    """

    angle_deg: float
    family: ClassVar[str] = "rig"
    per_vehicle: ClassVar[bool] = True
    needs_rig: ClassVar[bool] = True

    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        turns = Rotation.from_rotvec(
            np.radians(self.angle_deg) * _directions(len(frame.views), rng)
        ).as_matrix()
        return _believed(frame, turns, np.zeros((len(frame.views), 3)))


@dataclass(frozen=True)
class RigPosition(Disturbance):
    """Every camera is believed to sit this far off, in a random direction drawn once per vehicle and camera."""

    metres: float
    family: ClassVar[str] = "position"
    per_vehicle: ClassVar[bool] = True
    needs_rig: ClassVar[bool] = True

    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        cameras = len(frame.views)
        return _believed(frame, np.tile(np.eye(3), (cameras, 1, 1)), self.metres * _directions(cameras, rng))


def _directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[K, 3] unit vectors, uniform over the sphere."""
    found = rng.standard_normal((count, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _believed(frame: RigFrame, turns: NDArray[np.float64], shifts_m: NDArray[np.float64]) -> RigFrame:
    """The frame with mounting poses turned in the cameras' own frames [K, 3, 3] and shifted in the rig's [K, 3]."""
    views = []
    for view, turn, shift in zip(frame.views, turns, shifts_m, strict=True):
        T = view.T_rig_cam.copy()
        T[:3, :3] = T[:3, :3] @ turn
        T[:3, 3] += shift
        views.append(replace(view, T_rig_cam=T))
    return replace(frame, views=tuple(views))
