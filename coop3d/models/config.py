"""Typed model configuration, built from plain mappings (YAML, Hydra) with precise complaints."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from coop3d.models.recompute import CheckpointPolicy
from coop3d.models.stem import stem_patch_size

C = TypeVar("C")

Mlp = Literal["gelu", "swiglu"]
Modality = Literal["ray_dirs", "depth", "pose"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What concerns the model as a whole."""

    name: str = "mapanything"
    pretrained_checkpoint_path: str | None = None  # .pth, .safetensors or a folder with model.safetensors
    pretrained_submodules: tuple[str, ...] | None = None  # load only these, such as encoder; None: everything


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """DINOv2 vision transformer; ``depth`` counts the layers that are kept."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp: Mlp = "gelu"
    final_norm: bool = True
    pass_cls_token: bool = False  # hand each view's class token to the multi-view transformer
    patch_size: int = 14
    position_grid: tuple[int, int] = (37, 37)  # rows, columns of the learned table
    stem_dims: tuple[
        int, ...
    ] = ()  # widths of convolutions before the transformer; (): DINOv2's linear patches
    layer_scale_init: float = 1.0
    gradient_checkpointing: bool = False
    checkpoint_policy: CheckpointPolicy = "full"  # selective: keep matrix products, recompute the rest

    def __post_init__(self) -> None:
        _check_heads("encoder", self.embed_dim, self.num_heads)
        if len(self.position_grid) != 2 or min(self.position_grid) < 1:
            raise ValueError(f"encoder.position_grid is {self.position_grid}, expected [rows, columns]")
        if self.stem_dims and self.patch_size != stem_patch_size(self.stem_dims):
            raise ValueError(
                f"encoder.patch_size is {self.patch_size}, but {len(self.stem_dims)} levels of encoder.stem_dims "
                f"make patches of {stem_patch_size(self.stem_dims)} pixels"
            )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Alternating attention: even layers see all views, odd layers one view at a time."""

    dim: int
    depth: int
    num_heads: int
    indices: tuple[int, int]  # layers after which features are tapped for the dense head
    mlp: Mlp = "gelu"
    layer_scale_init: float | None = None  # None: no LayerScale parameters at all
    gradient_checkpointing: bool = False
    checkpoint_policy: CheckpointPolicy = "full"  # selective: keep matrix products, recompute the rest

    def __post_init__(self) -> None:
        _check_heads("info_sharing.module_args", self.dim, self.num_heads)
        first_last_ok = len(self.indices) == 2 and 0 <= self.indices[0] <= self.indices[1] < self.depth
        if not first_last_ok:
            raise ValueError(
                f"info_sharing.module_args.indices is {self.indices}, expected two increasing layer numbers "
                f"below depth = {self.depth}"
            )


@dataclass(frozen=True, kw_only=True)
class InfoSharingConfig:
    """Multi-view transformer."""

    module_args: TransformerConfig


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Descriptors that find the same place in two views, and the pose they give; not part of MapAnything."""

    dim: int = 64  # of a descriptor
    hidden_dim: int = 128
    cells_per_patch: int = 2  # descriptors per patch side
    initial_temperature: float = 10.0  # similarity of equal descriptors at the start of training
    pose: bool = True  # outside training the pose comes from matches, where they suffice
    min_support: float = 2.0  # matches' worth of agreement below which the regressed pose stays
    angle_noise: float = 0.15  # standard deviation of a match's direction, cells
    range_noise: float = 0.3  # standard deviation of log range

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "hidden_dim",
            "cells_per_patch",
            "initial_temperature",
            "angle_noise",
            "range_noise",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"pred_head.matching.{name} is {getattr(self, name)}, expected a number > 0")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Dense (DPT + regressor), pose and scale heads, and what their raw outputs start from."""

    feature_dim: int = 256
    layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    pose_hidden_dim: int = 784
    scale_hidden_dim: int = 196
    log_limit: float | None = None  # clip raw log-distance, log-confidence, log-scale to +-this before exp
    initial_scale_m: float = 15.0  # metric scale of a freshly initialised model
    group_norm: bool = False  # normalise inside the dense head; MapAnything does not
    matching: MatchingConfig | None = None
    gradient_checkpointing: bool = False
    checkpoint_policy: CheckpointPolicy = "full"  # selective: keep matrix products, recompute the rest

    def __post_init__(self) -> None:
        if len(self.layer_dims) != 4:
            raise ValueError(f"pred_head.layer_dims is {self.layer_dims}, expected four widths")
        if self.feature_dim % 2:
            raise ValueError(f"pred_head.feature_dim is {self.feature_dim}, expected an even number")
        if self.log_limit is not None and not self.log_limit > 0:
            raise ValueError(f"pred_head.log_limit is {self.log_limit}, expected a positive number or null")
        if not self.initial_scale_m > 0:
            raise ValueError(f"pred_head.initial_scale_m is {self.initial_scale_m}, expected metres > 0")


@dataclass(frozen=True, kw_only=True)
class GeometricInputConfig:
    """Encoders of MapAnything's optional geometric inputs."""

    modalities: tuple[Modality, ...] = ("ray_dirs", "depth", "pose")  # which encoders exist
    dense_dims: tuple[int, int, int] = (588, 768, 1024)
    global_dims: tuple[int, int, int] = (128, 256, 512)

    def __post_init__(self) -> None:
        for name in ("dense_dims", "global_dims"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"geometric_inputs.{name} is {getattr(self, name)}, expected three widths")


@dataclass(frozen=True, kw_only=True)
class PanoramaConfig:
    """What 360 degree panoramas with known calibration add to MapAnything; everything off is MapAnything."""

    wrap_around: bool = False  # left and right image borders touch
    known_rays_input: bool = False  # the rig's ray directions and origins enter the network
    origin_unit_m: float = 2.0  # ray origins are divided by this many metres before they are encoded
    compose_with: Literal["predicted", "known"] = "predicted"  # which rays `FactoredPrediction.rays` holds
    view_role_embedding: bool = False  # learned reference / other code on top of the fixed official one
    cameras_per_vehicle: int = 1  # views of each vehicle, in fixed order; above 1 each gets a role
    fuse_cameras: bool = False  # these share attention and one pose; their rays are in the vehicle's frame

    def __post_init__(self) -> None:
        if not self.origin_unit_m > 0:
            raise ValueError(f"panorama.origin_unit_m is {self.origin_unit_m}, expected metres > 0")
        if self.cameras_per_vehicle < 1:
            raise ValueError(
                f"panorama.cameras_per_vehicle is {self.cameras_per_vehicle}, expected at least 1"
            )
        if self.fuse_cameras and not (self.known_rays_input and self.cameras_per_vehicle > 1):
            raise ValueError(
                "panorama.fuse_cameras needs known_rays_input (rays tell the cameras of a vehicle apart) and "
                "cameras_per_vehicle above 1"
            )
        if self.fuse_cameras and self.wrap_around:
            raise ValueError(
                "panorama.fuse_cameras joins photographs, whose left and right borders do not touch: set "
                "panorama.wrap_around=false"
            )

    @property
    def fused_cameras(self) -> int:
        """Views that enter the multi-view transformer as one."""
        return self.cameras_per_vehicle if self.fuse_cameras else 1


@dataclass(frozen=True, kw_only=True)
class MapAnythingConfig:
    """Everything `MapAnything` is built from; the field names are the keys of ``configs/model/*.yaml``."""

    encoder: EncoderConfig
    info_sharing: InfoSharingConfig
    model_config: ModelConfig = field(default_factory=ModelConfig)
    pred_head: HeadConfig = field(default_factory=HeadConfig)
    geometric_inputs: GeometricInputConfig = field(default_factory=GeometricInputConfig)
    panorama: PanoramaConfig = field(default_factory=PanoramaConfig)

    def __post_init__(self) -> None:
        if self.panorama.known_rays_input and "ray_dirs" not in self.geometric_inputs.modalities:
            raise ValueError(
                "panorama.known_rays_input needs the ray encoder: add ray_dirs to geometric_inputs.modalities"
            )


def _check_heads(where: str, dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"{where}: width {dim} is not a multiple of num_heads = {num_heads}")


def from_mapping(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build the dataclass ``cls`` from a mapping, recursively.

    Raises:
        ValueError: for an unknown key (naming it and the closest valid one), a missing key or a wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or cls.__name__}: found {values!r}, expected a mapping")
    prefix = f"{where}." if where else ""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(_unknown_key(prefix, str(key), list(known)))
    required = [
        n
        for n, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and n not in values
    ]
    if required:
        raise ValueError(f"{prefix}{required[0]} is missing from the model configuration")
    return cls(**{k: _convert(hints[k], values[k], prefix + k) for k in values})


def _unknown_key(prefix: str, key: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return (
        f"unknown model configuration key {prefix}{key}; did you mean {prefix}{close[0]}? "
        f"Valid keys: {', '.join(valid)}"
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check ``value`` against a type hint; sequences become tuples, whole floats stay floats."""
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} is {value!r}, expected one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{where} is {value!r}, expected a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}, expected {hint.__name__}")
    return value
