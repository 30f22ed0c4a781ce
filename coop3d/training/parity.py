"""Compare losses, and model and loss together, with recordings of the published implementation.

Needs a folder with ``losses.json`` and ``losses.safetensors`` (values and gradients of every criterion in every
case) and, for the end-to-end gradients, ``e2e_grads.json`` and what `coop3d.models.parity.Fixture` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import Tensor

from coop3d.conf import CONFIG_DIR
from coop3d.losses import PointsTerm, Scene, WeightedSum
from coop3d.models.geometric_inputs import GeometricInputs
from coop3d.models.parity import OPTIONAL_KEYS, Deviation, Fixture, deviation
from coop3d.models.published import canonical_name
from coop3d.types import FactoredPrediction, ViewTargets

ROUNDING = 1e-5  # a gradient shorter than this is rounding noise of terms that cancel: compared absolutely
END_TO_END_LIMIT = 5e-5  # the recorded float32 gradients differ from float64 ones by up to 1.2e-5
CRITERIA = {  # recorded criterion -> config under configs/loss, overrides; validation has no confidence
    f"{name}_{part}": (f"{config}_published", overrides)
    for name, config in (("overall", "overall_loss"), ("opv2v", "opv2v_pose_loss"))
    for part, overrides in (
        ("train", ()),
        ("test", ("terms.points.confidence_alpha=null", "terms.points.exclude_top_percent=5")),
    )
}
RECORDED_NAMES = {  # our term -> the names of its parts in the recorded details
    "points": ("pts3d_conf_loss",),
    "view_points": ("cam_pts3d_bot95%_loss",),
    "range": ("depth_along_ray_bot95%_loss",),
    "rays": ("ray_directions",),
    "pose": ("pose_quats", "pose_trans"),
    "scale": ("scale",),
    "normal": ("normal",),
    "gradient": ("gradient_matching",),  # its four parts are recorded as one
    "mask": ("mask",),
}
VIEW_LEAVES = (
    "pts3d", "pts3d_cam", "ray_directions", "depth_along_ray", "cam_trans", "cam_quats", "conf",
    "non_ambiguous_mask_logits",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecordedPrediction(FactoredPrediction):
    """A prediction whose points and metric range are leaves of their own, as the recorded gradients want it."""

    leaf_points_ref: Tensor
    leaf_points_view: Tensor
    leaf_range_m: Tensor

    @property
    def points_ref(self) -> Tensor:
        return self.leaf_points_ref

    @property
    def points_view(self) -> Tensor:
        return self.leaf_points_view

    @property
    def range_m(self) -> Tensor:
        return self.leaf_range_m


def load_loss(config: str, overrides: tuple[str, ...] = ()) -> WeightedSum:
    """Build one config of ``configs/loss``."""
    with initialize_config_dir(str(CONFIG_DIR / "loss"), version_base="1.3"):
        loss: WeightedSum = instantiate(compose(config, overrides=list(overrides)))
    return loss


class LossFixture:
    """Recorded truth, predictions, loss values and gradients."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.tensors = load_file(folder / "losses.safetensors")
        self.record: dict[str, Any] = json.loads((folder / "losses.json").read_text(encoding="utf-8"))

    @property
    def cases(self) -> list[str]:
        """Names of the recorded cases."""
        return list(self.record["results"])

    def stacked(self, key: str) -> Tensor:
        """A per-view tensor, e.g. ``gt/pts3d``, as [B, V, ...]."""
        group, name = key.split("/")
        return torch.stack([self.tensors[f"{group}/view{v}/{name}"] for v in range(self.record["N"])], dim=1)

    def targets(self, is_metric: list[bool], is_synthetic: list[bool], kill: list[list[int]]) -> ViewTargets:
        """The recorded truth; ``kill`` lists (view, sample) without any valid pixel."""
        T_world_view = self.stacked("gt/camera_pose").double()
        valid = self.stacked("gt/valid_mask").clone()
        for view, sample in kill:
            valid[sample, view] = False
        rays = self.stacked("gt/ray_directions_cam")
        everywhere = torch.ones_like(valid)
        return ViewTargets(
            range_m=torch.where(valid, self.stacked("gt/depth_along_ray").squeeze(-1), torch.nan),
            rays=rays,
            origins=torch.zeros_like(rays),
            covered=everywhere,
            valid=valid,
            non_ambiguous=self.stacked("gt/non_ambiguous_mask"),
            mask_known=everywhere,
            source=torch.zeros_like(valid, dtype=torch.uint8),
            T_ref_view=(T_world_view[:, :1].inverse() @ T_world_view).float(),
            is_metric=torch.tensor(is_metric),
            is_synthetic=torch.tensor(is_synthetic),
            vehicle=torch.arange(valid.shape[1]),
        )

    def case_targets(self, case: str) -> ViewTargets:
        """The truth of a recorded case."""
        spec = self.record["cases"][case]
        return self.targets(spec["is_metric_scale"], spec["is_synthetic"], spec["kill"])

    def leaves(self) -> dict[str, Tensor]:
        """Recorded prediction as fresh leaves [B, V, ...]; ``metric_scaling_factor`` is [B, 1]."""
        leaves = {name: self.stacked(f"pred/{name}") for name in VIEW_LEAVES}
        leaves["metric_scaling_factor"] = self.tensors["pred/metric_scaling_factor"].clone()
        return {name: x.requires_grad_() for name, x in leaves.items()}

    def compare(self, case: str, criterion: str) -> Iterator[tuple[str, list[Deviation]]]:
        """Total, terms of every view, and gradients of one criterion in one case."""
        recorded = self.record["results"][case][criterion]
        leaves, loss = self.leaves(), load_loss(*CRITERIA[criterion])
        prediction, targets = recorded_prediction(leaves), self.case_targets(case)
        total = loss(prediction, targets).total
        total.backward()
        yield "total", [deviation("total", total, torch.tensor(recorded["total"]))]
        yield "terms", list(_terms(loss, Scene(prediction, targets), recorded["details"]))
        yield "gradients", list(self._gradients(leaves, f"grad/{case}/{criterion}", recorded))

    def _gradients(
        self, leaves: dict[str, Tensor], prefix: str, recorded: dict[str, Any]
    ) -> Iterator[Deviation]:
        step = recorded["grad_pixel_stride"]
        for name, facts in recorded["grads"].items():
            view, _, leaf = name.rpartition("/")
            grad = leaves[leaf].grad
            grad = torch.zeros_like(leaves[leaf]) if grad is None else grad
            if view:
                grad = grad[:, int(view.removeprefix("view"))]
            if facts["nonfinite"]:  # theirs is NaN; nothing to compare with, but ours must be a number
                worst = 0.0 if bool(grad.isfinite().all()) else math.nan
                yield Deviation(f"{name} (published: NaN)", worst, worst)
                continue
            yield gradient_deviation(f"|{name}|", grad.norm(), torch.tensor(facts["l2"]))
            strided = grad[:, ::step, ::step] if grad.ndim >= 3 else grad
            yield gradient_deviation(name, strided, self.tensors[f"{prefix}/{name}"])


def recorded_prediction(leaves: dict[str, Tensor]) -> RecordedPrediction:
    """The published dictionary of metric outputs as a prediction."""
    scale = leaves["metric_scaling_factor"].squeeze(-1)  # [B]
    range_m = leaves["depth_along_ray"].squeeze(-1)
    return RecordedPrediction(
        rays=leaves["ray_directions"],
        distance=range_m / scale[:, None, None, None],
        trans=leaves["cam_trans"] / scale[:, None, None],
        quat_xyzw=leaves["cam_quats"],
        scale=scale,
        confidence=leaves["conf"],
        mask_logits=leaves["non_ambiguous_mask_logits"],
        leaf_points_ref=leaves["pts3d"],
        leaf_points_view=leaves["pts3d_cam"],
        leaf_range_m=range_m,
    )


def gradient_deviation(name: str, found: Tensor, expected: Tensor) -> Deviation:
    """As `deviation`, absolute where the expected gradient is nothing but rounding."""
    d = deviation(name, found, expected)
    if float(expected.double().norm()) < ROUNDING:
        return d._replace(relative_l2=float((found.double() - expected.double()).norm()))
    return d


def _terms(loss: WeightedSum, scene: Scene, details: dict[str, float]) -> Iterator[Deviation]:
    """Every term of every view beside the recorded details, from which zeros are absent."""
    theirs = {key.partition("_")[2]: value for key, value in details.items()}
    for name, term in loss.terms.items():
        value = term(scene).per_group * (1.0 if name == "mask" else term.weight)  # the mask's is unweighted
        names = RECORDED_NAMES[name]
        if name == "points" and cast(PointsTerm, term).confidence_alpha is None:
            names = ("pts3d_bot95%_loss",)
        parts = [value.sum(dim=1)] if len(names) == 1 else value.unbind(dim=1)  # [G] each
        for recorded, part in zip(names, parts, strict=True):
            suffixes = [""] if name == "scale" else [f"_view{v + 1}" for v in range(len(part))]
            for suffix, x in zip(suffixes, part, strict=True):
                key = recorded + suffix
                yield deviation(key, x, torch.tensor(theirs.get(key, 0.0)))


class EndToEndFixture:
    """Recorded gradients of every parameter through model and loss.

    Per parameter the norm, the sum and the first values are recorded.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.record: dict[str, Any] = json.loads((folder / "e2e_grads.json").read_text(encoding="utf-8"))
        self.images = load_file(folder / "e2e_images.safetensors")
        self.models, self.losses = Fixture(folder), LossFixture(folder)
        self.targets = self.losses.targets([True, False], [True, False], [])

    @property
    def runs(self) -> list[str]:
        """Names of the recorded runs, ``architecture/inputs``."""
        return list(self.record["runs"])

    def compare(self, run: str) -> list[Deviation]:
        """Total loss and every parameter's gradient."""
        arch, inputs = run.split("/")
        recorded = self.record["runs"][run]
        model = self.models.model(arch)
        prediction = model.predict(self._image(), self._geometry() if inputs == "geo" else None)
        total = load_loss(*CRITERIA["opv2v_train"])(prediction, self.targets).total
        total.backward()
        facts = {canonical_name(name): x for name, x in recorded["param_grads"].items()}
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
        }
        if found.keys() != facts.keys():
            raise ValueError(f"{run}: parameters differ: {sorted(found.keys() ^ facts.keys())}")
        parameters = [parameter_deviation(name, grad, facts[name]) for name, grad in found.items()]
        return [deviation("total", total, torch.tensor(recorded["total"])), *parameters]

    def _image(self) -> Tensor:
        """[B, V, 3, H, W], normalised."""
        views = range(self.losses.record["N"])
        images = [self.images[f"e2e/view{v}/img_q"].float() for v in views]
        return torch.stack(images, dim=1) * self.record["image_scale"]

    def _geometry(self) -> GeometricInputs:
        """The truth as known geometry of every view."""
        names = [key for key in OPTIONAL_KEYS if key != "is_metric_scale"]
        stacked = {name: self.losses.stacked(f"gt/{name}") for name in names}
        metric = self.targets.is_metric
        views = range(self.losses.record["N"])
        return GeometricInputs.from_views(
            [{**{k: x[:, v] for k, x in stacked.items()}, "is_metric_scale": metric} for v in views]
        )


def parameter_deviation(name: str, grad: Tensor, facts: list[float]) -> Deviation:
    """From ``[norm, sum, first values...]``; errors are relative to the norm, of the sum also to sqrt(size)."""
    norm, total, *first = facts
    flat = grad.detach().double().flatten()
    floor = norm if norm > ROUNDING else 1.0
    errors = [abs(float(flat.sum()) - total) / (floor * math.sqrt(len(flat)))]
    errors += [abs(float(a) - b) / floor for a, b in zip(flat, first, strict=False)]
    return Deviation(name, abs(float(flat.norm()) - norm) / floor, max(errors))
