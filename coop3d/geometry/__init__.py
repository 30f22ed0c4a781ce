"""Poses, camera models, lifting and alignment. Knows no files."""

from coop3d.geometry.alignment import Similarity, horn
from coop3d.geometry.cameras import (
    PROJECTIONS,
    Camera,
    CylindricalCamera,
    EquirectangularCamera,
    PanoramaCamera,
    PinholeCamera,
    pixel_centres,
)
from coop3d.geometry.compose import compose_points, rotate_rays, transform_from_quat_trans
from coop3d.geometry.mounted import MountedCamera
from coop3d.geometry.quaternions import (
    matrix_to_quat,
    quat_conjugate,
    quat_multiply,
    quat_normalize,
    quat_to_matrix,
)
from coop3d.geometry.transforms import (
    invert_rigid,
    make_rigid,
    rotation_angle,
    rotation_from_vector,
    transform_points,
    yaw_rotation,
)

__all__ = [
    "PROJECTIONS",
    "Camera",
    "CylindricalCamera",
    "EquirectangularCamera",
    "MountedCamera",
    "PanoramaCamera",
    "PinholeCamera",
    "Similarity",
    "compose_points",
    "horn",
    "invert_rigid",
    "make_rigid",
    "matrix_to_quat",
    "pixel_centres",
    "quat_conjugate",
    "quat_multiply",
    "quat_normalize",
    "quat_to_matrix",
    "rotate_rays",
    "rotation_angle",
    "rotation_from_vector",
    "transform_from_quat_trans",
    "transform_points",
    "yaw_rotation",
]
