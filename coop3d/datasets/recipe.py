"""How a panorama is made from the files of one vehicle: one description for stitching now and for the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.opv2v import DEPTH_SOURCES, FrameEntry, load_rig_frame
from coop3d.geometry.cameras import Camera
from coop3d.geometry.carla import carla_pose_to_matrix, carla_to_opencv, matrix_to_carla_pose, opencv_to_carla
from coop3d.stitching import PanoramaStitcher
from coop3d.types import RigFrame

# Mounting poses are rounded to this grid. Both steps are far below any calibration's accuracy, and so wide that
# two different rounded rigs never share a look-up table in `TableCache`. CARLA computes in float32: beyond some 600 m
# from the world's origin its poses scatter by more than a step, and one rig becomes several. All are right; each costs
# a table.
GRID_M = 2e-4
GRID_DEG = 2e-3


@dataclass(frozen=True)
class PanoramaRecipe:
    """Everything that decides a panorama beside the files themselves.

    Attributes:
        camera: the panorama's camera.
        depth_source: where range comes from, see `load_rig_frame`.
        kind, centre, exposure: see `PanoramaStitcher`.

    Raises:
        ValueError: a value is none of those allowed.
    """

    camera: Camera
    depth_source: str = "auto"
    kind: str = "rig"
    centre: str = "lidar"
    exposure: str = "as_is"

    def __post_init__(self) -> None:
        if self.depth_source not in DEPTH_SOURCES:
            raise ValueError(f"depth_source is {self.depth_source!r}, expected one of {DEPTH_SOURCES}")
        self.stitcher()  # checks the rest

    def stitcher(self) -> PanoramaStitcher:
        """A new stitcher, with no look-up table yet."""
        return PanoramaStitcher(self.camera, kind=self.kind, centre=self.centre, exposure=self.exposure)

    def load_frame(
        self, entry: FrameEntry, partners: Sequence[FrameEntry] = (), *, with_sweep: bool = False
    ) -> RigFrame:
        """The vehicle's calibrated photographs and whatever range is to be taken from.

        Args:
            entry, with_sweep: as `load_rig_frame`.
            partners: the other vehicles of the instant; used when ``depth_source`` is ``fused``.

        Raises:
            DataError: files cannot be used.
        """
        partners = partners if self.depth_source == "fused" else ()
        return settle_rig(load_rig_frame(entry, self.depth_source, partners, with_sweep=with_sweep))


def settle_rig(frame: RigFrame) -> RigFrame:
    """The frame with its cameras' mounting poses on a grid of 0.2 mm and 0.002 degrees.

    A rig is recovered in every frame from world poses with their own round-off. Rounding makes it the same rig,
    bit for bit, in all of them, so that a panorama depends on its own files only and not on which frame of the
    rig a process happened to see first. Nominal mountings (100 degrees, 2.5 m) lie on the grid.
    """
    views = tuple(replace(view, T_rig_cam=_settle(view.T_rig_cam)) for view in frame.views)
    return replace(frame, views=views)


def _settle(T_rig_cam: NDArray[np.float64]) -> NDArray[np.float64]:
    pose = matrix_to_carla_pose(opencv_to_carla(T_rig_cam))  # x, y, z, roll, yaw, pitch
    steps = np.repeat([1 / GRID_M, 1 / GRID_DEG], 3)
    pose = np.round(pose * steps) / steps
    pose[3:][pose[3:] == -180.0] = 180.0  # one name for half a turn: sin(-180 deg) has another last bit
    return carla_to_opencv(carla_pose_to_matrix(pose + 0.0))  # + 0.0: no negative zeros
