"""Range of a level road: what the height of the camera alone says about distance."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.types import ViewInputs


def ground_plane_range(inputs: ViewInputs, ground_below_m: float, far_m: float) -> Tensor:
    """Distance along every ray to the plane ``y = ground_below_m`` of its own view, at most ``far_m``.

    A ray from ``o`` along ``d`` (OpenCV axes, y down) meets it at ``(ground_below_m - o_y) / d_y``. Rays at or above
    the horizon get ``far_m``: some house or tree.

    Args:
        inputs: with rays; without origins every ray starts at the view's centre.
        ground_below_m: from the view's centre down to the road.
        far_m: metres.

    Returns:
        [B, V, H, W] metres, positive.
    """
    if inputs.rays is None:
        raise ValueError("ground_plane_range needs inputs.rays (known ray directions), found None")
    down = inputs.rays[..., 1]
    start = torch.zeros_like(down) if inputs.origins is None else inputs.origins[..., 1]
    height = (ground_below_m - start).clamp_min(0.1)
    return torch.where(down > 1e-6, height / down.clamp_min(1e-6), far_m).clamp_max(far_m)
