"""Relative poses without training: SIFT on the panoramas, matched rays, a robust generalised relative pose.

Sees `ViewInputs` and nothing else. Panoramas are used as they are: within a band of +-45 degrees an equirectangular
picture is stretched by at most 1.4, which SIFT tolerates, and both panoramas are stretched alike at one elevation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from coop3d.evaluation.baselines import ground_plane_range, known_ray_prediction
from coop3d.evaluation.classical import ClassicalOptions, MatchedRays, NoPose, RelativePose, relative_pose
from coop3d.geometry import matrix_to_quat
from coop3d.types import FactoredPrediction, ViewInputs

PADDING = 32  # pixels of the other end put beside each end of a full circle
FEATURES = 2000  # keypoints per view, the strongest; bounds the time
ENLARGE = 2  # the picture is enlarged so many times before keypoints are sought
RATIO = 0.85  # Lowe's: nearest over second nearest descriptor distance
FAR_M = 15.0  # guess for what is not the road


class Features(NamedTuple):
    """Keypoints of one view as rays, with descriptors."""

    rays: NDArray[np.float64]  # [N, 3] unit
    origins: NDArray[np.float64]  # [N, 3] metres
    descriptors: NDArray[np.float32]  # [N, 128]


class ClassicalBaseline:
    """Feature matching and robust geometry where a learned model would stand.

    Where it finds no pose it says so (see `solve`) and answers with the reference's pose. Range is the level road
    under a camera of known height, 15 m elsewhere; the mask says surface everywhere.

    Args:
        options: of the pose estimation.
    """

    def __init__(self, options: ClassicalOptions | None = None) -> None:
        self.options = options if options is not None else ClassicalOptions()

    def __call__(self, inputs: ViewInputs) -> FactoredPrediction:
        """Predict; needs rays and origins."""
        return self.solve(inputs)[0]

    def solve(self, inputs: ViewInputs) -> tuple[FactoredPrediction, list[tuple[str, ...]]]:
        """The prediction, and per sample one note for every view but the first: where its pose comes from.

        Notes are ``rig``, ``ground``, ``guess`` (where the length of the translation comes from; the last is no
        measurement) or ``failed: <reason>``.

        Raises:
            ValueError: rays or origins are missing.
        """
        if inputs.rays is None or inputs.origins is None:
            raise ValueError(
                "ClassicalBaseline needs inputs.rays and inputs.origins (input set images+rays+rig)"
            )
        inputs_cpu = inputs.to("cpu")
        answers = [self._sample(inputs_cpu, b) for b in range(inputs.shape[0])]
        T = torch.from_numpy(np.stack([[np.eye(4), *(_pose(a) for a in sample)] for sample in answers]))
        range_m = ground_plane_range(inputs, self.options.sensor_height_m, FAR_M)
        prediction = known_ray_prediction(
            inputs,
            T[..., :3, 3],
            matrix_to_quat(T[..., :3, :3]),
            range_m,
            torch.ones_like(range_m, dtype=torch.bool),
        )
        return prediction, [tuple(_note(a) for a in sample) for sample in answers]

    def _sample(self, inputs: ViewInputs, b: int) -> list[RelativePose | NoPose]:
        views = [self._features(inputs, b, v) for v in range(inputs.shape[1])]
        return [relative_pose(match(views[0], other), self.options) for other in views[1:]]

    def _features(self, inputs: ViewInputs, b: int, v: int) -> Features:
        assert inputs.rays is not None
        assert inputs.origins is not None
        rgb = (inputs.image[b, v].float().numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
        return find_features(rgb, inputs.rays[b, v].double().numpy(), inputs.origins[b, v].double().numpy())


def _pose(answer: RelativePose | NoPose) -> NDArray[np.float64]:
    return answer.T_ref_other if isinstance(answer, RelativePose) else np.eye(4)


def _note(answer: RelativePose | NoPose) -> str:
    return answer.scale_from if isinstance(answer, RelativePose) else f"failed: {answer.reason}"


def find_features(
    rgb: NDArray[np.uint8],
    rays: NDArray[np.float64],
    origins: NDArray[np.float64],
) -> Features:
    """SIFT keypoints of one view. Black pixels (no camera) and what lies near them give none.

    Args:
        rgb: [H, W, 3].
        rays, origins: [H, W, 3] of pixel centres.
    """
    H, W = rgb.shape[:2]
    pad = PADDING if _is_full_circle(rays) else 0
    grey = cv2.cvtColor(np.pad(rgb, ((0, 0), (pad, pad), (0, 0)), mode="wrap"), cv2.COLOR_RGB2GRAY)
    seen = cv2.erode(
        (np.pad(rgb.any(axis=-1), ((0, 0), (pad, pad)), mode="wrap")).astype(np.uint8), np.ones((5, 5))
    )
    size = (grey.shape[1] * ENLARGE, H * ENLARGE)
    create: Any = getattr(cv2, "SIFT_create")  # noqa: B009  # the typed stubs of OpenCV 5 do not know it
    sift = create(nfeatures=FEATURES, contrastThreshold=0.01)
    keypoints, descriptors = sift.detectAndCompute(
        cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC),
        cv2.resize(seen, size, interpolation=cv2.INTER_NEAREST),
    )
    if descriptors is None:
        return Features(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 128), np.float32))
    # cv2 counts from the middle of the first pixel; (0.5, 0.5) there is a corner of the enlarged grid
    uv = (np.array([k.pt for k in keypoints]) + 0.5) / ENLARGE - np.array([pad, 0.0])
    inside = (uv[:, 0] >= 0) & (uv[:, 0] < W)
    uv, descriptors = uv[inside], _root(descriptors[inside])
    return Features(_bilinear_rays(rays, uv, bool(pad)), _nearest(origins, uv), descriptors)


def _is_full_circle(rays: NDArray[np.float64]) -> bool:
    """The first and the last column are neighbours."""
    middle = rays[len(rays) // 2]
    return bool(middle[0] @ middle[-1] > np.cos(1.5 * np.arccos(np.clip(middle[0] @ middle[1], -1, 1))))


def _root(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hellinger normalisation (Arandjelovic and Zisserman 2012): Euclidean distance becomes Hellinger's."""
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))


def _bilinear_rays(rays: NDArray[np.float64], uv: NDArray[np.float64], circle: bool) -> NDArray[np.float64]:
    H, W = rays.shape[:2]
    x, y = uv[:, 0] - 0.5, np.clip(uv[:, 1] - 0.5, 0, H - 1)
    if not circle:
        x = np.clip(x, 0, W - 1)
    x0, y0 = np.floor(x).astype(int), np.minimum(np.floor(y).astype(int), H - 2)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    a, b = x0 % W, (x0 + 1) % W if circle else np.minimum(x0 + 1, W - 1)
    out = (1 - fy) * ((1 - fx) * rays[y0, a] + fx * rays[y0, b]) + fy * (
        (1 - fx) * rays[y0 + 1, a] + fx * rays[y0 + 1, b]
    )
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def _nearest(origins: NDArray[np.float64], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Origins jump at camera seams: they are never interpolated."""
    H, W = origins.shape[:2]
    u, v = np.floor(uv).astype(int).T
    return origins[np.clip(v, 0, H - 1), np.clip(u, 0, W - 1)]


def match(one: Features, two: Features) -> MatchedRays:
    """Mutual nearest neighbours that pass the ratio test."""
    if len(one.rays) < 2 or len(two.rays) < 2:
        nothing = np.zeros(0, int)
        i, j = nothing, nothing
    else:
        similarity = one.descriptors @ two.descriptors.T  # of unit vectors: distance^2 = 2 - 2 similarity
        distance = np.sqrt(np.maximum(2.0 - 2.0 * similarity, 0.0))
        i = np.arange(len(one.rays))
        j = distance.argmin(axis=1)
        nearest, second = np.partition(distance, 1, axis=1)[:, :2].T
        keep = (distance.argmin(axis=0)[j] == i) & (nearest < RATIO * second)
        i, j = i[keep], j[keep]
    return MatchedRays(one.origins[i], one.rays[i], two.origins[j], two.rays[j])
