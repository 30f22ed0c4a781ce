"""The only module that knows CARLA's left-handed axes.

OPV2V writes everything in CARLA/Unreal axes: x forward, y right, z up (left-handed), metres and degrees.
The rest of coop3d uses OpenCV axes: x right, y down, z forward (right-handed). The reader converts once with
these functions; the synthetic writer converts nothing, it already speaks CARLA.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# (x, y, z)_cv = (y, -z, x)_carla. Its determinant is -1: it changes handedness, as it must.
B_CV_CARLA: NDArray[np.float64] = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


def carla_pose_to_matrix(pose: ArrayLike) -> NDArray[np.float64]:
    """Actor-to-world matrix of a CARLA pose, still in CARLA axes.

    The rotation is ``Rz(yaw) Ry(-pitch) Rx(-roll)`` with standard right-handed elementary matrices: CARLA's
    positive pitch looks up and its positive roll dips the right side.

    Args:
        pose: ``[x, y, z, roll, yaw, pitch]`` in metres and degrees.

    Returns:
        [4, 4] float64 ``T_world_actor``.

    Raises:
        ValueError: if ``pose`` is not six finite numbers.
    """
    values = np.asarray(pose, dtype=np.float64)
    if values.shape != (6,) or not np.isfinite(values).all():
        raise ValueError(f"a CARLA pose is six finite numbers [x, y, z, roll, yaw, pitch], found {pose!r}")
    return carla_poses_to_matrices(values)


def carla_poses_to_matrices(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 6] poses to [..., 4, 4] matrices at once, see :func:`carla_pose_to_matrix`."""
    roll, yaw, pitch = np.moveaxis(np.radians(poses[..., 3:]), -1, 0)
    cr, sr, cy, sy, cp, sp = (f(a) for a in (roll, yaw, pitch) for f in (np.cos, np.sin))
    one, zero = np.ones_like(cr), np.zeros_like(cr)
    Rz = _matrix3(cy, -sy, zero, sy, cy, zero, zero, zero, one)
    Ry = _matrix3(cp, zero, -sp, zero, one, zero, sp, zero, cp)  # Ry(-pitch)
    Rx = _matrix3(one, zero, zero, zero, cr, sr, zero, -sr, cr)  # Rx(-roll)
    T = np.zeros((*poses.shape[:-1], 4, 4))
    T[..., :3, :3] = Rz @ Ry @ Rx
    T[..., :3, 3] = poses[..., :3]
    T[..., 3, 3] = 1.0
    return T


def _matrix3(*entries: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 3, 3] from nine arrays [...], row by row."""
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def matrix_to_carla_pose(T_world_actor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of :func:`carla_pose_to_matrix`, with pitch in [-90, 90] degrees.

    At pitch = +-90 degrees yaw and roll are not unique; roll is then taken as zero.
    """
    R = np.asarray(T_world_actor, dtype=np.float64)[:3, :3]
    pitch = np.arcsin(np.clip(R[2, 0], -1.0, 1.0))
    if abs(R[2, 0]) < 1.0 - 1e-12:
        yaw, roll = np.arctan2(R[1, 0], R[0, 0]), np.arctan2(-R[2, 1], R[2, 2])
    else:
        yaw, roll = np.arctan2(-R[0, 1], R[1, 1]), 0.0
    return np.concatenate([T_world_actor[:3, 3], np.degrees([roll, yaw, pitch])])


def carla_to_opencv(T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Re-express a CARLA-axes rigid transform in OpenCV axes on both sides: ``B T B^-1`` ([..., 4, 4])."""
    B = np.eye(4)
    B[:3, :3] = B_CV_CARLA
    return B @ np.asarray(T, dtype=np.float64) @ B.T


def opencv_to_carla(T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of :func:`carla_to_opencv` ([..., 4, 4])."""
    B = np.eye(4)
    B[:3, :3] = B_CV_CARLA
    return B.T @ np.asarray(T, dtype=np.float64) @ B


def carla_points_to_opencv(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """[..., 3] points from CARLA to OpenCV axes: ``(y, -z, x)``, same dtype."""
    return np.stack([points[..., 1], -points[..., 2], points[..., 0]], axis=-1)


def opencv_points_to_carla(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """[..., 3] points from OpenCV to CARLA axes: ``(z, x, -y)``, same dtype."""
    return np.stack([points[..., 2], points[..., 0], -points[..., 1]], axis=-1)


def pose_to_opencv(pose: ArrayLike) -> NDArray[np.float64]:
    """CARLA ``[x, y, z, roll, yaw, pitch]`` to the [4, 4] ``T_world_actor`` in OpenCV axes."""
    return carla_to_opencv(carla_pose_to_matrix(pose))
