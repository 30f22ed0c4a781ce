"""Every check by name: where its value must lie, and what a value outside means."""

from __future__ import annotations

import numpy as np

from coop3d.datasets.doctor.report import Band

_POSES = (
    "poses are composed in a wrong order or sign (roll, yaw, pitch), or the file mixes frames; see the conventions "
    "page"
)
_RANGE = "rays start at a wrong origin, z-depth was taken as range, or cameras are swapped"
_FLOATING = (
    "one vehicle's points float in space that another one sees through: poses between vehicles or ray origins "
    "are wrong"
)

BANDS: dict[str, Band] = {
    "frames that are complete": Band(
        0.9, 1.0, "", np.min, "many frames lack a photograph or depth: a copy stopped half-way, or the rig has other "
        "cameras (dataset.cameras=auto); --verbose says which scenarios lack what"),
    "frames with depth files": Band(
        1e-6, 1.0, "", np.min, "the depth root belongs to other data, or its files have other names; set it "
        "(machine.opv2v_depth_root), or null to take range from LiDAR"),
    "sampled instants that can be read": Band(1.0, 1.0, "", np.min, "files are broken; they are named below"),
    "samples with as many views as asked for": Band(1.0, 1.0, "", np.min, "sampling.vehicles is not respected"),
    "references that are road-side units": Band(0.0, 0.0, "", np.max, "a unit at the road cannot be the reference"),
    "distance of partners, median": Band(
        1.0, 150.0, "m", np.median, "partners are implausibly near or far: poses are in another unit or frame"),
    "distance of partners, farthest": Band(0.0, 300.0, "m", np.max, "poses of some frames are in another frame"),
    "extrinsic against cords, translation": Band(0.0, 0.05, "m", np.max, f"cameraN.extrinsic disagrees: {_POSES}"),
    "extrinsic against cords, rotation": Band(0.0, 0.3, "deg", np.max, f"cameraN.extrinsic disagrees: {_POSES}"),
    "panorama covered": Band(
        -0.02, 0.02, "", np.median, "not what the rig's full photographs cover: they were cropped before stitching "
        "(OPV2V: 0.86; 0.33 when cropped to 4:1), or intrinsics do not belong to them"),
    "panorama covered, one centre": Band(
        -0.35, 0.02, "", np.median, "not what the rig's full photographs cover: were they cropped?"),
    "ray origins against camera centres": Band(
        0.0, 0.01, "m", np.max, "rays do not start at the cameras: points are metres off at every distance"),
    "pixels whose masks contradict each other": Band(
        0.0, 0.0, "", np.max, "valid must imply covered and a finite range, non_ambiguous must imply covered"),
    "unmeasured pixels called a surface": Band(
        0.0, 0.1, "", np.max, "non_ambiguous means coverage: with LiDAR, what no point hit is unknown"),
    "covered pixels with range": Band(
        0.005, 1.0, "", np.median, "almost no pixel has range: clouds are empty, in another unit, or misaligned"),
    "covered surface with range": Band(
        0.5, 1.0, "", np.median, "dense depth gives range to few pixels: it is broken, or misaligned"),
    "sky called a surface": Band(
        0.0, 0.02, "", np.max, "non_ambiguous means coverage: sky has no geometry and must be False"),
    "surface called ambiguous": Band(0.0, 0.02, "", np.max, "non_ambiguous is False where depth shows a surface"),
    "depth edges averaged, files": Band(
        0.0, 0.3, "", np.median, "depth images hold values between two surfaces: resized or blurred with "
        "interpolation; every such pixel is a ghost point"),
    "depth edges averaged, panorama": Band(
        0.0, 0.12, "", np.median, "range was interpolated across edges: ghost points between surfaces"),
    "LiDAR points on the depth images": Band(
        0.75, 1.0, "", np.median, "LiDAR and depth disagree: depth is range instead of z, was averaged with zeros, "
        "cameras are swapped, or poses are converted wrongly"),
    "LiDAR points on the panorama": Band(0.75, 1.0, "", np.median, f"LiDAR and panorama disagree: {_RANGE}"),
    "other vehicles' LiDAR in the panorama": Band(
        0.8, 1.0, "", np.median, f"the panorama sees through what other vehicles' LiDARs hit: {_POSES}; {_RANGE}"),
    "panorama to the LiDAR points it comes from": Band(
        0.0, 0.05, "", np.median, "pixels have range where no LiDAR point is: averaged with the zeros of pixels that "
        "were not hit, or with the other side of an edge"),
    "panorama to fused LiDAR, median": Band(0.0, 0.08, "m", np.median, f"panorama points miss the LiDAR: {_RANGE}"),
    "LiDAR of one vehicle to another's, worst": Band(
        0.0, 0.15, "m", np.median, f"clouds of two vehicles do not fit together: {_POSES}"),
    "points of one panorama in another": Band(0.95, 1.0, "", np.median, _FLOATING),
    "points of one sparse panorama in another": Band(0.8, 1.0, "", np.median, _FLOATING),
}  # fmt: skip
