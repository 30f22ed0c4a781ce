"""From pictures as users have them to a prediction: ``model.infer(images)``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coop3d.geometry.cameras import Camera
from coop3d.types import FactoredPrediction, Panorama, ViewInputs

if TYPE_CHECKING:
    from coop3d.models.mapanything import MapAnything

Array: TypeAlias = Tensor | NDArray[Any]
Images: TypeAlias = Array | Sequence[Array] | Sequence[Panorama]
Precision = Literal["auto", "fp32", "bf16"]


@torch.no_grad()  # not inference_mode, whose tensors may not enter a training step, as a teacher's targets do
def infer(
    model: MapAnything,
    images: Images,
    rays: Array | Camera | Sequence[Array | Camera] | None = None,
    origins: Array | Sequence[Array] | None = None,
    *,
    views_at_once: int | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
) -> FactoredPrediction:
    """See `MapAnything.infer`."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(get_args(Precision))}")
    if views_at_once is not None and views_at_once < 1:
        raise ValueError(f"views_at_once is {views_at_once}, expected at least 1, or None for all views")
    inputs = prepare_inputs(images, rays, origins).to(next(model.parameters()).device)
    if compiled:
        compile_blocks(model)
    was_training = model.training
    model.eval()
    try:
        with _autocast(precision, inputs.image.device):
            return model(inputs, views_at_once)
    finally:
        model.train(was_training)


def compile_blocks(model: MapAnything, **options: Any) -> None:
    """Let ``torch.compile`` work on each transformer block, in place; a second call does nothing.

    Blocks of one transformer share their code, so compiling takes as long as for one of them, and names of
    parameters stay as they are.

    Args:
        model: as used from now on.
        options: of `torch.compile`, such as ``backend`` or ``mode``.
    """
    for block in (*model.encoder.model.blocks, *model.info_sharing.self_attention_blocks):
        if block._compiled_call_impl is None:
            block.compile(**options)


def prepare_inputs(
    images: Images,
    rays: Array | Camera | Sequence[Array | Camera] | None = None,
    origins: Array | Sequence[Array] | None = None,
) -> ViewInputs:
    """Pictures and calibration in any of the layouts of `MapAnything.infer`, as the network takes them.

    Raises:
        ValueError: for layouts, types or values that are none of these.
    """
    if isinstance(images, Sequence) and images and isinstance(images[0], Panorama):
        return _from_panoramas(images, rays, origins)  # type: ignore[arg-type]
    image = _images(images)
    B, V, _, H, W = image.shape
    return ViewInputs(
        image=image,
        rays=None if rays is None else _map("rays", rays, (B, V, H, W, 3)),
        origins=None if origins is None else _map("origins", origins, (B, V, H, W, 3)),
    )


def _from_panoramas(panoramas: Sequence[Panorama], rays: Any, origins: Any) -> ViewInputs:
    if rays is not None or origins is not None:
        raise ValueError("panoramas bring their own rays and origins; pass their rgb to use others")
    return prepare_inputs(
        np.stack([p.rgb for p in panoramas]),
        np.stack([p.camera.rays().astype(np.float32) for p in panoramas]),
        np.stack([p.origin_map() for p in panoramas]),
    )


def _images(images: Any) -> Tensor:
    """Any layout to [B, V, 3, H, W] float32 in [0, 1]."""
    if isinstance(images, (Tensor, np.ndarray)):
        image = _tensor(images)
    else:
        if not images:
            raise ValueError("there is no image")
        parts = [_tensor(image) for image in images]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"images have different shapes: {[tuple(part.shape) for part in parts]}")
        image = torch.stack(parts)
    if image.ndim not in (4, 5) or 3 not in (image.shape[-3], image.shape[-1]):
        raise ValueError(
            f"images are {tuple(image.shape)}, expected [V, H, W, 3] or [V, 3, H, W] (view 0 is the reference), with "
            "a batch axis in front or without"
        )
    if image.shape[-3] != 3:
        image = image.movedim(-1, -3)
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif not image.is_floating_point():
        raise ValueError(f"images are {image.dtype}, expected uint8 in 0..255 or floating in [0, 1]")
    elif not (image.amin() >= 0 and image.amax() <= 1):
        raise ValueError(
            f"floating images lie in [{image.amin():g}, {image.amax():g}], expected [0, 1] (uint8: 0..255)"
        )
    return (image if image.ndim == 5 else image[None]).float()


def _tensor(array: Any) -> Tensor:
    return (
        array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))
    )


def _map(name: str, array: Any, shape: tuple[int, ...]) -> Tensor:
    """[..., H, W, 3] or cameras, one for all views or one per view, to [B, V, H, W, 3]; a set may serve all samples."""
    if isinstance(array, Sequence):
        value = torch.stack([_tensor(_rays_of(part)).float() for part in array])
    else:
        value = _tensor(_rays_of(array)).float()
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name} is {tuple(value.shape)}, expected {shape} or its last 3 or 4 axes"
        ) from None


def _rays_of(array: Any) -> Any:
    return array if isinstance(array, (Tensor, np.ndarray)) else array.rays()


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where asked for or, by default, on a GPU that has it; a CPU is faster and more exact without."""
    by_default = (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" or by_default else nullcontext()
