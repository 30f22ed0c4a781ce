"""An analytic world (planes, boxes, spheres) and OPV2V's nominal rig, independent of the package's own cameras.

Axes are OpenCV (x right, y down, z forward), metres. Everything here is plain numpy written from the formulae, so
that tests compare the package with something it did not compute itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from coop3d.geometry import PinholeCamera
from coop3d.types import CameraView, LidarSweep, RigFrame, SampleKey

# spec of the rig: [x forward, y right, z up, yaw] in the vehicle frame, CARLA axes
CAMERAS = {
    "camera0": (2.5, 0.0, 1.0, 0.0),
    "camera1": (0.0, 0.3, 1.8, 100.0),
    "camera2": (0.0, -0.3, 1.8, -100.0),
    "camera3": (-2.0, 0.0, 1.5, 180.0),
}
DEFAULT_KEY = SampleKey("scenario", "1", "000000")
LIDAR = (-0.5, 0.0, 1.9)


@dataclass
class Scene:
    """Union of half-space borders, oriented boxes and spheres."""

    planes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # point, unit normal
    boxes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(
        default_factory=list
    )  # centre, R, half size
    spheres: list[tuple[np.ndarray, float]] = field(default_factory=list)

    def trace(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Distance along unit ``directions`` [..., 3] from ``origins`` to the first surface; inf for none."""
        first = np.full(directions.shape[:-1], np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            for point, normal in self.planes:
                t = ((point - origins) @ normal) / (directions @ normal)
                np.minimum(first, t, out=first, where=t > 1e-9)
            for centre, R, half in self.boxes:
                near, far = np.full_like(first, -np.inf), np.full_like(first, np.inf)
                for axis, h in zip(R.T, half, strict=True):
                    o, d = (origins - centre) @ axis, directions @ axis
                    t0, t1 = (-h - o) / d, (h - o) / d
                    near = np.maximum(near, np.minimum(t0, t1))
                    far = np.minimum(far, np.maximum(t0, t1))
                np.minimum(first, near, out=first, where=(near < far) & (near > 1e-9))
            for centre, radius in self.spheres:
                oc = origins - centre
                b = (oc * directions).sum(-1)
                disc = b * b - (oc * oc).sum(-1) + radius * radius
                t = -b - np.sqrt(np.maximum(disc, 0))
                np.minimum(first, t, out=first, where=(disc > 0) & (t > 1e-9))
        return first

    def colour(self, points: np.ndarray) -> np.ndarray:
        """Smooth texture anchored in the world: [..., 3] uint8."""
        phase = points @ np.array([[0.9, 0.2, 0.5], [0.3, 1.1, -0.4], [-0.5, 0.4, 0.8]])
        return np.clip(127.5 + 90 * np.sin(phase), 0, 255).astype(np.uint8)


def street(slope: tuple[float, float] = (0.0, 0.0)) -> Scene:
    """Ground with the given (roll, pitch) slope in degrees, two tall walls, boxes as cars, one sphere."""
    R = Rotation.from_euler("zx", slope, degrees=True).as_matrix()
    up = R @ np.array([0.0, -1.0, 0.0])
    scene = Scene(planes=[(np.zeros(3), up)])
    for x, z, yaw, half in [
        (-14.0, 10.0, 5.0, (2.0, 9.0, 30.0)),
        (13.0, -5.0, -8.0, (2.0, 7.0, 25.0)),
        (3.5, 12.0, 20.0, (0.9, 0.8, 2.2)),
        (-4.0, 7.0, -15.0, (0.9, 0.8, 2.2)),
        (2.5, -11.0, 0.0, (1.0, 1.5, 4.0)),
        (0.5, 45.0, 12.0, (12.0, 6.0, 1.0)),
    ]:
        box = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
        centre = np.array([x, 0.0, z])
        centre[1] = -(centre @ up) / up[1] - half[1]  # stands on the ground
        scene.boxes.append((centre, box, np.array(half)))
    scene.spheres.append((np.array([-6.0, -3.0, -9.0]), 2.0))
    return scene


def vehicle_pose(x: float, z: float, yaw_deg: float, slope: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """``T_world_vehicle`` standing on the sloped ground at (x, z), heading turned right by ``yaw_deg``."""
    R_slope = Rotation.from_euler("zx", slope, degrees=True).as_matrix()
    up = R_slope @ np.array([0.0, -1.0, 0.0])
    T = np.eye(4)
    T[:3, :3] = R_slope @ Rotation.from_euler("y", yaw_deg, degrees=True).as_matrix()
    T[:3, 3] = [x, -(x * up[0] + z * up[2]) / up[1], z]
    return T


def mount(x: float, y: float, z: float, yaw_deg: float = 0.0) -> np.ndarray:
    """Rig constants (CARLA axes) to ``T_vehicle_sensor`` in OpenCV axes, written out by hand."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", yaw_deg, degrees=True).as_matrix()
    T[:3, 3] = [y, -z, x]
    return T


def render_rig(
    scene: Scene,
    T_world_vehicle: np.ndarray,
    size: tuple[int, int] = (400, 300),
    key: SampleKey = DEFAULT_KEY,
    with_depth: bool = True,
) -> RigFrame:
    """Photographs and exact z-depth of the nominal rig, by tracing each pixel-centre ray."""
    width, height = size
    f = width / 2 / np.tan(np.radians(50))
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    d_cam = np.stack([(u - width / 2) / f, (v - height / 2) / f, np.ones_like(u)], -1)
    length = np.linalg.norm(d_cam, axis=-1)
    T_world_rig = T_world_vehicle @ mount(*LIDAR)
    views = []
    for name, where in CAMERAS.items():
        T_world_cam = T_world_vehicle @ mount(*where)
        directions = (d_cam / length[..., None]) @ T_world_cam[:3, :3].T
        t = scene.trace(T_world_cam[:3, 3], directions)
        with np.errstate(invalid="ignore"):
            points = T_world_cam[:3, 3] + t[..., None] * directions
        hit = np.isfinite(t)
        image = np.full((height, width, 3), (150, 190, 240), np.uint8)
        image[hit] = scene.colour(points[hit])
        z = np.where(hit, t / length, np.nan).astype(np.float32)
        views.append(
            CameraView(
                name=name,
                camera=PinholeCamera(width, height, f, f, width / 2, height / 2),
                T_rig_cam=np.linalg.inv(T_world_rig) @ T_world_cam,
                image=image,
                z_m=z if with_depth else None,
            )
        )
    return RigFrame(key=key, views=tuple(views), T_world_rig=T_world_rig, depth_is_dense=with_depth)


@lru_cache(maxsize=8)
def street_rig(
    x: float,
    z: float,
    yaw_deg: float,
    slope: tuple[float, float] = (0.0, 0.0),
    size: tuple[int, int] = (800, 600),
) -> tuple[Scene, RigFrame]:
    """A street and what the rig sees of it in full resolution, to read: seconds of work that several tests share."""
    scene = street(slope)
    return scene, render_rig(scene, vehicle_pose(x, z, yaw_deg, slope), size)


def scan(
    scene: Scene,
    T_world_sensor: np.ndarray,
    T_world_rig: np.ndarray,
    rng: np.random.Generator,
    noise_m: float = 0.02,
    columns: int = 1000,
) -> LidarSweep:
    """One sweep of OPV2V's LiDAR: 64 beams from -25 to 5 degrees, 120 m, noise along the ray."""
    elevation = np.radians(np.linspace(-25, 5, 64))[:, None]
    azimuth = (np.arange(columns) + 0.5)[None] / columns * 2 * np.pi - np.pi
    flat = np.cos(elevation)
    shots = np.stack(
        np.broadcast_arrays(flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)), -1
    ).reshape(-1, 3)
    distance = scene.trace(T_world_sensor[:3, 3], shots @ T_world_sensor[:3, :3].T)
    hit = distance < 120
    measured = distance[hit] + noise_m * rng.standard_normal(hit.sum())
    return LidarSweep(
        points=(shots[hit] * measured[:, None]).astype(np.float32),
        T_rig_sensor=np.linalg.inv(T_world_rig) @ T_world_sensor,
    )


def true_range(scene: Scene, panorama) -> np.ndarray:
    """Independent range of every pixel: its world ray traced through the analytic scene."""
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    origins = panorama.origin_map().astype(float) @ R.T + t
    return scene.trace(origins, panorama.camera.rays() @ R.T)
