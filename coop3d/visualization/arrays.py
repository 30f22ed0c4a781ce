"""Tensors of a batch's first sample as numpy arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coop3d.types import ViewInputs, ViewTargets

RGB = NDArray[np.uint8]  # [H, W, 3]


def to_numpy(x: Tensor) -> NDArray:
    """On the host, detached; half precision as float32."""
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 or x.dtype == torch.float16 else x).numpy()


def photographs(inputs: ViewInputs, view: int) -> RGB:
    """[H, W, 3] colours of a view; what is not finite is black."""
    image = to_numpy(inputs.image[0, view]).transpose(1, 2, 0)  # in [0, 1]
    return np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)


def seen_pixels(inputs: ViewInputs, targets: ViewTargets | None, view: int) -> NDArray[np.bool_]:
    """[H, W] pixels with colour from a photograph; without targets, those that are not black."""
    if targets is not None:
        return to_numpy(targets.covered[0, view])
    return np.asarray(to_numpy(inputs.image[0, view]).any(axis=0))


def view_origins(inputs: ViewInputs, rays: NDArray, view: int) -> NDArray:
    """[H, W, 3] where each of a view's [H, W, 3] ``rays`` starts, metres, view frame: at 0 where nothing is said."""
    return np.zeros_like(rays) if inputs.origins is None else to_numpy(inputs.origins[0, view])
