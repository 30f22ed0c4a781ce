"""Perspective pictures cut from panoramas, each exact for the rays that start at its centre."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.geometry import (
    CylindricalCamera,
    EquirectangularCamera,
    PinholeCamera,
    make_rigid,
    pixel_centres,
    yaw_rotation,
)
from coop3d.geometry.cameras import Camera

FloatArray = NDArray[np.floating]

_WIDEST = 2.2  # largest |x / z| of a pinhole picture: 131 degrees
_QUARTER = 1.04  # the same of one of four pictures: 92 degrees
_ONE_PICTURE_RAD = np.radians(65.0)  # rays farther from their mean direction need several pictures


@dataclass(frozen=True, kw_only=True)
class PinholeCut:
    """One perspective picture; ``mask`` says which pixels the panorama could fill from this centre."""

    camera: PinholeCamera
    T_view_cam: NDArray[np.float64]  # [4, 4]
    image: NDArray[np.uint8]  # [h, w, 3]
    mask: NDArray[np.bool_]  # [h, w]


def camera_of_rays(rays: FloatArray) -> Camera:
    """The camera whose pixel rays these are.

    Args:
        rays: [H, W, 3] unit directions of a panorama or a pinhole picture without distortion.

    Raises:
        ValueError: no camera class of the project has such rays.
    """
    height, width = rays.shape[:2]
    for candidate in _candidates(rays.astype(np.float64), width, height):
        if np.abs(candidate.rays() - rays).max() < 1e-4:
            return candidate
    raise ValueError(
        f"the rays of this {width} x {height} view are those of no panorama (equirectangular or cylindrical, full "
        "circle) and of no pinhole camera; pictures cannot be cut from it"
    )


def _candidates(rays: NDArray[np.float64], width: int, height: int) -> list[Camera]:
    """Cameras that have the first and the last row's (or for a pinhole, the corners') rays."""
    out: list[Camera] = []
    if (rays[0, 0, 2] > 0) and (rays[-1, -1, 2] > 0):
        slope = rays[[0, -1], [0, -1], :2] / rays[[0, -1], [0, -1], 2:]
        fx, fy = (np.array([width - 1, height - 1]) / np.maximum(slope[1] - slope[0], 1e-9)).tolist()
        out.append(PinholeCamera(width, height, fx, fy, 0.5 - slope[0, 0] * fx, 0.5 - slope[0, 1] * fy))
    if height < 2:
        return out
    tangent = -rays[[0, -1], 0, 1] / np.hypot(rays[[0, -1], 0, 0], rays[[0, -1], 0, 2])
    for kind, forward, back in (
        (EquirectangularCamera, np.arctan, lambda x: x),
        (CylindricalCamera, lambda x: x, np.arctan),
    ):
        first, last = forward(tangent)
        margin = (first - last) / (height - 1) / 2  # from a pixel's centre to the image's border
        top, bottom = np.degrees(back(np.array([first + margin, last - margin])))
        if top > bottom and max(top, -bottom) <= 90.0 + 1e-9:
            out.append(kind(width, height, float(top - bottom), float(top + bottom) / 2))
    return out


def cut_pinholes(
    image: NDArray[np.uint8], rays: FloatArray, origins: FloatArray, covered: NDArray[np.bool_]
) -> list[PinholeCut]:
    """Perspective pictures that show all covered pixels of a view, at its angular resolution.

    Rays that start at the same centre (one physical camera of a rig) form one picture around their mean heading, so
    no parallax is ignored; where they look all around (one centre of projection), four pictures a quarter turn apart
    share the centre.

    Args:
        image: [H, W, 3].
        rays: [H, W, 3] unit directions, view frame.
        origins: [H, W, 3] metres.
        covered: [H, W] pixels with colour.

    Raises:
        ValueError: see `camera_of_rays`.
    """
    camera = camera_of_rays(rays)
    if not covered.any():
        return []
    centres, member = np.unique(np.round(origins[covered], 4), axis=0, return_inverse=True)
    owner = np.full(covered.shape, -1, np.int32)
    owner[covered] = member.ravel()
    cuts = []
    for k, centre in enumerate(centres):
        own = owner == k
        headings = _headings(rays[own])
        for yaw in headings:
            R_view_cam = yaw_rotation(yaw)[:3, :3]
            pinhole = _fitting(rays[own] @ R_view_cam, camera, _WIDEST if len(headings) == 1 else _QUARTER)
            T = make_rigid(R_view_cam, centre.astype(np.float64))
            cuts.append(_cut(image, own, camera, pinhole, np.asarray(T, np.float64)))
    return cuts


def _headings(rays: FloatArray) -> list[float]:
    """Yaw of one picture that holds these [N, 3] rays, or of four."""
    mean = rays.mean(axis=0)
    heading = np.arctan2(mean[0], mean[2])
    azimuth = np.arctan2(rays[:, 0], rays[:, 2]) - heading
    off = np.abs(np.remainder(azimuth + np.pi, 2 * np.pi) - np.pi)
    return [float(heading)] if off.max() <= _ONE_PICTURE_RAD else [0.0, np.pi / 2, np.pi, -np.pi / 2]


def _fitting(rays_cam: FloatArray, camera: Camera, widest: float) -> PinholeCamera:
    """A centred pinhole that holds the [N, 3] rays before it, with the source's resolution in its middle."""
    ahead = rays_cam[rays_cam[:, 2] > 0.1]
    slopes = np.abs(ahead[:, :2] / ahead[:, 2:])
    slopes = slopes[slopes[:, 0] <= widest]
    x, y = np.minimum(slopes.max(axis=0, initial=0.1), _WIDEST)
    focal = camera.fx if isinstance(camera, PinholeCamera) else camera.width / (2 * np.pi)
    width, height = (2 * int(np.ceil(focal * reach)) for reach in (x, y))
    return PinholeCamera(width, height, focal, focal, width / 2, height / 2)


def _cut(
    image: NDArray[np.uint8],
    own: NDArray[np.bool_],
    camera: Camera,
    pinhole: PinholeCamera,
    T_view_cam: NDArray[np.float64],
) -> PinholeCut:
    uv, inside = camera.project(
        pinhole.directions(pixel_centres(pinhole.width, pinhole.height)) @ T_view_cam[:3, :3].T
    )
    # cv2 counts from 0, and a column is put on either side: a panorama goes on there
    at = (np.where(inside[..., None], uv, 0.0) + np.array([0.5, -0.5])).astype(np.float32)

    def sample(picture: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        left, right = (0, -1) if isinstance(camera, PinholeCamera) else (-1, 0)
        wide = np.concatenate([picture[:, [left]], picture, picture[:, [right]]], axis=1)
        return cv2.remap(wide, at[..., 0], at[..., 1], interpolation, borderMode=cv2.BORDER_REPLICATE)

    mask = (sample(own.astype(np.uint8), cv2.INTER_NEAREST) > 0) & inside
    sampled = sample(image, cv2.INTER_LINEAR) * mask[..., None]
    return PinholeCut(camera=pinhole, T_view_cam=T_view_cam, image=sampled, mask=mask)
