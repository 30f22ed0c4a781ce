"""Every object that passes a door between rooms, on one page.

Up to the panorama (files, stitching, cache) data are numpy arrays; from the cooperative batch on they are
torch tensors. What the network may see (`ViewInputs`) and what only losses and metrics may see (`ViewTargets`)
are different types: that is the leak guard.

Axes are OpenCV (x right, y down, z forward), metres, ``T_dst_src`` maps points of ``src`` into ``dst``.
Unmeasured range or depth is NaN, never 0. Sizes: B batch, V vehicles (views), K cameras, H, W, N points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from coop3d.geometry.cameras import Camera, PinholeCamera
from coop3d.geometry.compose import compose_points, rotate_rays, transform_from_quat_trans

T = TypeVar("T", bound="_TensorRecord")


class SampleKey(NamedTuple):
    """Which vehicle at which instant."""

    scenario: str
    agent: str
    frame: str

    def __str__(self) -> str:
        return f"{self.scenario}/{self.agent}/{self.frame}"

    @property
    def is_roadside_unit(self) -> bool:
        """V2XSet marks road-side units with negative ids; they can never be the reference."""
        return self.agent.startswith("-")


@dataclass(frozen=True, kw_only=True)
class CameraView:
    """One photograph of a rig with its calibration; z-depth where a depth file exists."""

    name: str
    camera: PinholeCamera
    T_rig_cam: NDArray[np.float64]  # [4, 4] rigid
    image: NDArray[np.uint8]  # [h, w, 3] RGB
    z_m: NDArray[np.float32] | None = None  # [h, w] metres along the optical axis, NaN = unknown or sky


@dataclass(frozen=True, kw_only=True)
class LidarSweep:
    """One sweep of one LiDAR, in the sensor's own frame (its grid of beams lives there)."""

    points: NDArray[np.float32]  # [N, 3] metres, sensor frame
    T_rig_sensor: NDArray[np.float64]  # [4, 4] rigid; identity for the rig's own LiDAR

    @property
    def points_rig(self) -> NDArray[np.float32]:
        """[N, 3] metres, rig frame."""
        R, t = self.T_rig_sensor[:3, :3].astype(np.float32), self.T_rig_sensor[:3, 3].astype(np.float32)
        return self.points @ R.T + t


@dataclass(frozen=True, kw_only=True)
class RigFrame:
    """One vehicle at one instant, calibrated: datasets/opv2v -> stitching.

    ``rig`` is OPV2V's LiDAR frame in OpenCV axes. ``depth_is_dense`` says whether a pixel without depth means
    sky (dense renderings) or simply "not measured" (projected LiDAR). Dense depth is used before sweeps,
    sweeps before sparse depth. ``depth_quantum_m`` says to which multiple z was rounded: it is
    up to half of that off, and never called dense.
    """

    key: SampleKey
    views: tuple[CameraView, ...]
    T_world_rig: NDArray[np.float64]  # [4, 4]
    depth_is_dense: bool = False
    depth_quantum_m: float = 0.0  # 0 = not rounded
    sweeps: tuple[LidarSweep, ...] = ()  # the rig's own first, then other vehicles' of the same instant


@dataclass(frozen=True, kw_only=True)
class Panorama:
    """An image whose pixels know where their rays start: stitching -> cache -> cooperative sample.

    Usually 360 degrees of one vehicle; the pinhole baseline uses the same type for one photograph.

    The surface point of a pixel is ``origins[source] + range_m * camera.rays()`` in the pano frame.
    """

    key: SampleKey
    camera: Camera  # EquirectangularCamera or CylindricalCamera; PinholeCamera in the baseline
    kind: str  # "rig" or "central"
    rgb: NDArray[np.uint8]  # [H, W, 3], 0 where no camera sees
    range_m: NDArray[np.float32]  # [H, W] metres along the ray, NaN = unknown
    source: NDArray[np.uint8]  # [H, W] index of the camera a pixel belongs to, 255 = none
    origins: NDArray[np.float32]  # [K, 3] ray origins in the pano frame
    covered: NDArray[np.bool_]  # [H, W] the pixel has colour from a photograph
    valid: NDArray[np.bool_]  # [H, W] range_m is trustworthy supervision
    non_ambiguous: NDArray[np.bool_]  # [H, W] a surface is seen (False: sky, or no camera looks there)
    mask_known: NDArray[np.bool_]  # [H, W] non_ambiguous is itself known here
    T_world_pano: NDArray[np.float64]  # [4, 4]

    def origin_map(self) -> NDArray[np.float32]:
        """[H, W, 3] ray origin of every pixel (zeros where no camera sees)."""
        table = np.concatenate([self.origins, np.zeros((256 - len(self.origins), 3), np.float32)])
        return np.take(table, self.source, axis=0)  # four times as fast as table[source]

    def points_pano(self) -> NDArray[np.float32]:
        """[H, W, 3] surface points in the pano frame; NaN where range is unknown."""
        return self.origin_map() + self.range_m[..., None] * self.camera.rays().astype(np.float32)


class _TensorRecord:
    """Shared behaviour of the tensor dataclasses: move every tensor field at once."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """Copy with every tensor field on ``device``."""
        return self._map(_once_per_tensor(lambda x: x.to(device, non_blocking=non_blocking)))

    def pin_memory(self: T) -> T:
        """Copy with every tensor field in pinned host memory (called by DataLoader)."""
        return self._map(_once_per_tensor(lambda x: x.pin_memory()))

    def detach(self: T) -> T:
        """Copy with every tensor field detached from the graph."""
        return self._map(lambda x: x.detach())

    def _map(self: T, fn: Callable[[Tensor], Tensor]) -> T:
        changed: dict[str, Tensor | _TensorRecord] = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = fn(value)
            elif isinstance(value, _TensorRecord):
                changed[f.name] = value._map(fn)
        return replace(self, **changed)  # type: ignore[type-var]


def _once_per_tensor(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What two records share (rays and origins, a third of a batch) is copied once and shared by the copies."""
    copies: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = fn(tensor)
        return copies[id(tensor)]

    return copy


@dataclass(frozen=True, kw_only=True)
class ViewInputs(_TensorRecord):
    """Everything the network may see. Image-only: the photographs and the rigs' own calibration.

    No field can hold depth or a pose between vehicles.
    """

    image: Tensor  # [B, V, 3, H, W] float32 RGB in [0, 1], 0 where no camera sees
    rays: Tensor | None = None  # [B, V, H, W, 3] unit, view frame
    origins: Tensor | None = None  # [B, V, H, W, 3] metres, view frame; where each ray starts

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, V, H, W)."""
        B, V, _, H, W = self.image.shape
        return B, V, H, W


@dataclass(frozen=True, kw_only=True)
class ViewTargets(_TensorRecord):
    """What only losses and metrics may see."""

    range_m: Tensor  # [B, V, H, W] float32, NaN = unknown
    rays: Tensor  # [B, V, H, W, 3] unit, view frame
    origins: Tensor  # [B, V, H, W, 3] metres, view frame
    covered: Tensor  # [B, V, H, W] bool
    valid: Tensor  # [B, V, H, W] bool
    non_ambiguous: Tensor  # [B, V, H, W] bool
    mask_known: Tensor  # [B, V, H, W] bool
    source: Tensor  # [B, V, H, W] uint8, 255 = none
    T_ref_view: Tensor  # [B, V, 4, 4] float32; view 0 is the reference, so T_ref_view[:, 0] = I
    is_metric: Tensor  # [B] bool
    is_synthetic: Tensor  # [B] bool: depth is exact and dense
    vehicle: Tensor  # [V] int64: which vehicle a view belongs to (arange for panoramas)

    @property
    def points_view(self) -> Tensor:
        """[B, V, H, W, 3] surface points in each view's own frame; NaN where unknown."""
        return self.origins + self.range_m[..., None] * self.rays

    @property
    def points_ref(self) -> Tensor:
        """[B, V, H, W, 3] surface points in the reference view's frame; NaN where unknown."""
        R, t = self.T_ref_view[..., :3, :3], self.T_ref_view[..., :3, 3]
        return rotate_rays(R, self.points_view) + t[..., None, None, :]


@dataclass(frozen=True, kw_only=True)
class CoopBatch(_TensorRecord):
    """One batch of cooperative samples; every sample has the same number of views."""

    inputs: ViewInputs
    targets: ViewTargets
    keys: tuple[tuple[SampleKey, ...], ...]  # B x V
    # [B, 4, 4] truth, for scores over several instants only; never on a device. None: not known
    T_world_ref: NDArray[np.float64] | None = None

    def reference_only(self) -> CoopBatch:
        """The same samples with the reference vehicle's views alone: what one vehicle could know by itself."""
        alone = int((self.targets.vehicle == self.targets.vehicle[0]).sum())

        def cut(record: T) -> T:
            values = {f.name: getattr(record, f.name) for f in fields(record)}  # type: ignore[arg-type]
            per_view = {k: v[:, :alone] for k, v in values.items() if isinstance(v, Tensor) and v.ndim > 1}
            return replace(record, **per_view)  # type: ignore[type-var]

        targets = replace(cut(self.targets), vehicle=self.targets.vehicle[:alone])
        return replace(
            self, inputs=cut(self.inputs), targets=targets, keys=tuple(k[:alone] for k in self.keys)
        )


@dataclass(frozen=True, kw_only=True)
class FactoredPrediction(_TensorRecord):
    """What a model returns: rays, distance before scale, pose before scale and one metric scale, kept apart.

    Scale is applied here and nowhere else. Points are
    ``X_ref = R (o + s * distance * ray) + s * t`` (DESIGN: known origins ``o`` are metric already).
    """

    rays: Tensor  # [B, V, H, W, 3] unit directions used to compose points, view frame
    distance: Tensor  # [B, V, H, W] > 0, along the ray, before metric scale
    trans: Tensor  # [B, V, 3] before metric scale
    quat_xyzw: Tensor  # [B, V, 4] unit, view to reference
    scale: Tensor  # [B] metres per unit
    confidence: Tensor  # [B, V, H, W] >= 1
    mask_logits: Tensor  # [B, V, H, W]; > 0 means non-ambiguous
    origins: Tensor | None = None  # [B, V, H, W, 3] metres; None = all zero
    predicted_rays: Tensor | None = None  # [B, V, H, W, 3] the network's own, where `rays` are known ones
    # Of models with a matching head, on a grid of h x w equal cells of the image:
    descriptors: Tensor | None = None  # [B, V, h, w, D]; inner products: log-odds of the same place
    seen_logits: Tensor | None = None  # [B, V, h, w]; > 0 means that another view shows this place, too
    # [B, V] sum of weights of the matches that agree with the pose; 0 means the pose comes from the pose head
    pose_support: Tensor | None = None

    @property
    def range_m(self) -> Tensor:
        """[B, V, H, W] metres along the ray."""
        return self.distance * self.scale[:, None, None, None]

    @property
    def T_ref_view(self) -> Tensor:
        """[B, V, 4, 4] metric pose."""
        return transform_from_quat_trans(self.quat_xyzw, self.trans * self.scale[:, None, None])

    @property
    def points_view(self) -> Tensor:
        """[B, V, H, W, 3] metres in each view's own frame."""
        points = self.range_m[..., None] * self.rays
        return points if self.origins is None else points + self.origins

    @property
    def points_ref(self) -> Tensor:
        """[B, V, H, W, 3] metres in the reference frame."""
        return compose_points(self.rays, self.distance, self.quat_xyzw, self.trans, self.scale, self.origins)

    @property
    def non_ambiguous(self) -> Tensor:
        """[B, V, H, W] bool."""
        return self.mask_logits > 0


# FSDP before torch 2.11 finds a module's outputs by this and waits for none of their gradients otherwise: with a preset
# that trains nothing inside the transformers' blocks, no gradient would be reduced.
_PREDICTED = tuple(f.name for f in fields(FactoredPrediction))
register_pytree_node(
    FactoredPrediction,
    lambda p: ([getattr(p, name) for name in _PREDICTED], None),
    lambda values, _: FactoredPrediction(**dict(zip(_PREDICTED, values, strict=True))),
)
