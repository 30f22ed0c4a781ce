"""A MapAnything of a few thousand parameters, with the options a test asks for."""

from __future__ import annotations

from typing import Any

import torch

from coop3d.geometry import EquirectangularCamera
from coop3d.models import MapAnything, MapAnythingConfig, from_mapping
from coop3d.types import ViewInputs

PANORAMA = {
    "wrap_around": True,
    "known_rays_input": True,
    "compose_with": "known",
    "view_role_embedding": True,
}


def small_values(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Configuration sections; ``sections`` override single values."""
    values: dict[str, dict[str, Any]] = {
        "encoder": {"embed_dim": 24, "depth": 2, "num_heads": 2, "position_grid": [3, 5]},
        "info_sharing": {"module_args": {"dim": 16, "depth": 4, "num_heads": 2, "indices": [1, 2]}},
        "pred_head": {
            "feature_dim": 8,
            "layer_dims": [4, 6, 8, 10],
            "pose_hidden_dim": 12,
            "scale_hidden_dim": 8,
        },
        "geometric_inputs": {"dense_dims": [8, 10, 12], "global_dims": [4, 6, 8]},
    }
    for name, section in sections.items():
        if name == "info_sharing":
            values[name]["module_args"] = {**values[name]["module_args"], **section}
        else:
            values[name] = {**values.get(name, {}), **section}
    return values


def small_model(seed: int = 0, **sections: dict[str, Any]) -> MapAnything:
    """With every parameter random, so that nothing hides behind a zero start."""
    generator = torch.Generator().manual_seed(seed)
    model = MapAnything(from_mapping(MapAnythingConfig, small_values(**sections)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = "norm" in name and name.endswith("weight")
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            parameter.copy_(noise * fan_in**-0.5 + float(gain))
    return model.eval()


def random_panoramas(B: int = 2, V: int = 3, h: int = 3, w: int = 6, seed: int = 0) -> ViewInputs:
    """Random images of h x w patches with true panorama rays and random origins."""
    generator = torch.Generator().manual_seed(seed)
    H, W = 14 * h, 14 * w
    rays = torch.from_numpy(EquirectangularCamera(W, H).rays().copy()).float()
    return ViewInputs(
        image=torch.rand(B, V, 3, H, W, generator=generator),
        rays=rays.expand(B, V, H, W, 3),
        origins=torch.randn(B, V, H, W, 3, generator=generator),
    )
