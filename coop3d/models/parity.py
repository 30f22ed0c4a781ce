"""Compare with recorded outputs of the published implementation (a folder with ``manifest.json``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from coop3d.models.geometric_inputs import GeometricInputs
from coop3d.models.mapanything import MapAnything
from coop3d.models.published import canonical_state, config_from_published
from coop3d.types import FactoredPrediction

RELATIVE_L2_LIMIT = 1e-5  # about three times what float32 rounding alone reaches
MAX_ERROR_LIMIT = 1e-4
OPTIONAL_KEYS = (
    "ray_directions_cam",
    "depth_along_ray",
    "camera_pose_quats",
    "camera_pose_trans",
    "is_metric_scale",
)


class Deviation(NamedTuple):
    """How far one tensor is from its reference."""

    tensor: str
    relative_l2: float
    max_error: float  # max |difference| / (1 + |reference|)

    @property
    def ok(self) -> bool:
        """Within both limits (NaN is not)."""
        return self.relative_l2 <= RELATIVE_L2_LIMIT and self.max_error <= MAX_ERROR_LIMIT


def deviation(name: str, found: Tensor, expected: Tensor) -> Deviation:
    """Compare in float64.

    Raises:
        ValueError: if the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(f"{name}: found shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    a, b = found.detach().double(), expected.double()
    norm = float(b.norm())
    difference = float((a - b).norm())
    return Deviation(
        name, difference / norm if norm else difference, float(((a - b).abs() / (1 + b.abs())).max())
    )


class Fixture:
    """Recorded weights, inputs and outputs of one or more architectures."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.inputs = load_file(self.folder / "inputs.safetensors")

    def state_dict(self, arch: str) -> dict[str, Tensor]:
        """Decoded weights under all their published names, aliases included."""
        entry = self.manifest["archs"][arch]
        stored = load_file(self.folder / f"weights_{arch}.safetensors")
        bank = next(iter(load_file(self.folder / "pose_bank.safetensors").values())).flatten().float()
        state = {}
        for name, codec in entry["weights"].items():
            if codec["enc"] == "bank":
                length = torch.Size(codec["shape"]).numel()
                index = (codec["offset"] + torch.arange(length)) % len(bank)
                state[name] = bank[index].reshape(codec["shape"]) * codec["scale"]
            else:
                state[name] = stored[name].float() * codec.get("scale", 1.0)
            state.update((alias, state[name]) for alias in entry["aliases"].get(name, ()))
        return state

    def model(self, arch: str) -> MapAnything:
        """The architecture with its recorded weights, in evaluation mode."""
        model = MapAnything(config_from_published(self.manifest["archs"][arch]))
        model.load_state_dict(canonical_state(self.state_dict(arch)))
        return model.eval()

    def run_inputs(self, run: str) -> tuple[Tensor, GeometricInputs | None]:
        """Normalised images [B, V, 3, H, W] and geometry of a run."""
        spec = self.manifest["runs"][run]
        resolution = spec["resolution"]
        views = sorted({k.split("/")[1] for k in self.inputs if k.startswith(f"{resolution}/")})
        images = torch.stack([self._image(f"{resolution}/{view}") for view in views], dim=1)
        if spec["optional_inputs"] == "none":
            return images, None
        dictionaries = [self._optional(resolution, i, run) for i in range(len(views))]
        return images, GeometricInputs.from_views(dictionaries)

    def _image(self, prefix: str) -> Tensor:
        if f"{prefix}/img_q" in self.inputs:
            return self.inputs[f"{prefix}/img_q"].float() / 64
        small = self.inputs[f"{prefix}/img_small_q"].float() / 64
        return small.repeat_interleave(14, -1).repeat_interleave(14, -2)

    def _optional(self, resolution: str, view: int, run: str) -> dict[str, Tensor]:
        keys = self.manifest["partial_keys"][str(view)] if "partial" in run else OPTIONAL_KEYS
        return {key: self.inputs[f"{resolution}/view{view}/{key}"] for key in keys}

    def compare(self, arch: str) -> Iterator[tuple[str, list[Deviation]]]:
        """Run every recorded run; yields its name and the deviation of every recorded tensor."""
        model = self.model(arch)
        expected = load_file(self.folder / f"out_{arch}.safetensors")
        for run in self.manifest["runs"]:
            image, geometry = self.run_inputs(run)
            recorder = ModuleRecorder(model, (image.shape[0], image.shape[1]), image.shape[-2] // 14)
            with torch.no_grad(), recorder:
                prediction = model.predict(image, geometry)
            found = {**published_outputs(prediction), **recorder.outputs}
            keys = [k for k in expected if k.startswith(f"{run}/")]
            yield run, [_compare(k, found[k.removeprefix(f"{run}/")], expected[k]) for k in keys]


def _compare(name: str, found: Tensor, expected: Tensor) -> Deviation:
    """Dense maps are recorded with a pixel stride, which follows from the sizes."""
    if found.ndim >= 3 and "/mid/" not in name:
        step = -(-found.shape[1] // expected.shape[1])
        found = found[:, ::step, ::step]
    return deviation(name, found, expected)


def published_outputs(prediction: FactoredPrediction) -> dict[str, Tensor]:
    """A prediction under the published names ``view{v}/{key}``, metric scale applied."""
    p, scale = prediction, prediction.scale[:, None]
    fields = {
        "pts3d": p.points_ref,
        "pts3d_cam": p.points_view,
        "ray_directions": p.rays,
        "depth_along_ray": p.range_m[..., None],
        "cam_trans": p.trans * scale[..., None],
        "cam_quats": p.quat_xyzw,
        "conf": p.confidence,
        "non_ambiguous_mask": p.non_ambiguous,
        "non_ambiguous_mask_logits": p.mask_logits,
    }
    views = {f"view{v}/{k}": x[:, v] for k, x in fields.items() for v in range(p.rays.shape[1])}
    return {"metric_scaling_factor": scale, **views}


class ModuleRecorder:
    """Outputs of inner modules under the published names and in the published (view-major) layout."""

    def __init__(self, model: MapAnything, views: tuple[int, int], rows: int) -> None:
        self.model, self.views, self.rows = model, views, rows
        self.outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> ModuleRecorder:
        for name, module in self.model.named_children():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._record(name, output)

        return record

    def _view_major(self, x: Tensor) -> Tensor:
        """[B * V, ...] with the batch outermost to [V * B, ...]."""
        return x.unflatten(0, self.views).transpose(0, 1).flatten(0, 1)

    def _as_map(self, x: Tensor) -> Tensor:
        """[..., h * w, C] to [..., C, h, w]."""
        return x.transpose(-1, -2).unflatten(-1, (self.rows, -1))

    def _record(self, name: str, output: Any) -> None:
        out = self.outputs
        if name == "encoder":
            out["mid/encoder.features"] = self._as_map(self._view_major(output.patches))
            out["mid/encoder.registers"] = self._view_major(output.cls)[..., None]
        elif name == "fusion_norm_layer":
            fused = output.transpose(0, 1).flatten(0, 1)
            out["mid/fusion_norm_layer"] = fused.unflatten(1, (self.rows, -1))
        elif name == "info_sharing":
            out["mid/info_sharing.final"] = self._as_map(output.final.transpose(0, 1))
            for i, tap in enumerate(output.taps):
                out[f"mid/info_sharing.intermediate{i}"] = self._as_map(tap.transpose(0, 1))
            out["mid/info_sharing.scale_token"] = output.scale_token[..., None]
        elif name == "pose_head":
            out["mid/pose_head.raw"] = self._view_major(torch.cat(output, dim=-1))
        elif name == "scale_head":
            out["mid/scale_head.raw"] = output[:, None, None]
        elif name in ("ray_dirs_encoder", "depth_encoder"):
            out[f"mid/{name}.features"] = self._as_map(self._view_major(output))
        elif name.endswith("_encoder"):
            out[f"mid/{name}.features"] = self._view_major(output)
