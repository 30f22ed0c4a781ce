"""Rearranging the view axis: scenes of different sizes behind one another, photographs of a vehicle together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from coop3d.geometry.compose import rotate_rays
from coop3d.types import FactoredPrediction, ViewInputs


def join_scenes(scenes: Sequence[ViewInputs]) -> ViewInputs:
    """Scenes [1, V_i, ...] to one [1, sum of V_i, ...].

    Raises:
        ValueError: if there is none, one has a batch size other than 1, image sizes differ, or only some have rays
            or origins.
    """
    if not scenes:
        raise ValueError("there is no scene to predict")
    shapes = {(s.shape[0], *s.shape[2:]) for s in scenes}
    if len(shapes) > 1 or scenes[0].shape[0] != 1:
        raise ValueError(f"scenes are (batch, height, width) {sorted(shapes)}, expected one size and batch 1")

    def join(name: str) -> Tensor | None:
        values = [getattr(scene, name) for scene in scenes]
        present = [value for value in values if value is not None]
        if len(present) not in (0, len(values)):
            raise ValueError(f"some scenes have {name} and some have not")
        return torch.cat(present, dim=1) if present else None

    image = join("image")
    assert image is not None
    return ViewInputs(image=image, rays=join("rays"), origins=join("origins"))


def split_scenes(packed: FactoredPrediction, counts: Sequence[int]) -> list[FactoredPrediction]:
    """Inverse of `join_scenes` for predictions whose ``scale`` is [scenes] and whose other fields are [1, V, ...]."""
    ends = list(accumulate(counts))
    fields = {k: v for k, v in vars(packed).items() if isinstance(v, Tensor) and k != "scale"}
    return [
        FactoredPrediction(
            scale=packed.scale[i : i + 1], **{k: v[:, end - n : end] for k, v in fields.items()}
        )
        for i, (n, end) in enumerate(zip(counts, ends, strict=True))
    ]


def group_cameras(tokens: Tensor, cameras: int) -> Tensor:
    """The tokens of a vehicle's photographs as those of one view: [B, n * K, T, C] to [B, n, K * T, C]."""
    return tokens.unflatten(1, (-1, cameras)).flatten(2, 3)


def ungroup_cameras(tokens: Tensor, cameras: int) -> Tensor:
    """Inverse of `group_cameras`."""
    return tokens.unflatten(2, (cameras, -1)).flatten(1, 2)


def in_vehicle_frame(inputs: ViewInputs, T_vehicle_view: Tensor) -> ViewInputs:
    """Rays and origins of photographs in the frame of their vehicle, by the rig's own calibration.

    Args:
        inputs: ``rays`` and ``origins`` in each view's own frame; origins of None are the cameras' centres.
        T_vehicle_view: [B, V, 4, 4] or fewer leading axes; rigid, maps points of a view into its vehicle's frame.

    Raises:
        ValueError: if there are no rays.
    """
    if inputs.rays is None:
        raise ValueError("inputs.rays is None: there is nothing to rotate")
    T = T_vehicle_view.to(inputs.rays).expand(*inputs.rays.shape[:2], 4, 4)
    R, t = T[..., :3, :3], T[..., None, None, :3, 3]
    origins = torch.zeros_like(inputs.rays) if inputs.origins is None else inputs.origins
    return replace(inputs, rays=rotate_rays(R, inputs.rays), origins=rotate_rays(R, origins) + t)


def check_vehicle_frame(inputs: ViewInputs, cameras: int) -> None:
    """Refuse photographs that are about to be fused but are still in the frames of their own cameras.

    There all look straight ahead from one place, so nothing would tell them apart. Says nothing about tensors without
    contents (dry runs).

    Args:
        inputs: with rays.
        cameras: photographs per vehicle; 1 asks for nothing.

    Raises:
        ValueError: the middle rays of a vehicle's photographs all coincide.
    """
    if cameras == 1 or inputs.rays is None or type(inputs.rays) is not Tensor or inputs.rays.is_meta:
        return
    H, W = inputs.rays.shape[2:4]
    middle = [x[0, :cameras, H // 2, W // 2] for x in (inputs.rays, inputs.origins) if x is not None]
    if all(bool((x - x[0]).abs().max() < 1e-3) for x in middle):
        raise ValueError(
            f"panorama.fuse_cameras: the {cameras} photographs of the first vehicle look in one direction from one "
            "place, so their rays are in their own cameras' frames; use dataset=opv2v_pinhole_fused "
            "(dataset.frame=vehicle), or coop3d.models.scenes.in_vehicle_frame"
        )
