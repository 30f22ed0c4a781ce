"""MapAnything: photographs of several views to factored metric geometry in the first view's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from coop3d.geometry.cameras import Camera
from coop3d.models.adaptors import DensePrediction, adapt_dense, adapt_quaternion, adapt_scale
from coop3d.models.blocks import LAYER_NORM_EPS, at_least_float32
from coop3d.models.config import MapAnythingConfig
from coop3d.models.encoder import EncoderOutput, ImageEncoder
from coop3d.models.geometric_encoders import DenseEncoder, GlobalEncoder
from coop3d.models.geometric_inputs import GeometricEncoders, GeometricInputs, fuse_geometry
from coop3d.models.heads import DptFeatures, DptRegressor, PoseHead, ScaleHead, leave_outputs, to_map
from coop3d.models.hub import HubMixin
from coop3d.models.inference import Array, Images, Precision, infer
from coop3d.models.info_sharing import AlternatingAttention, Counts, SharedFeatures
from coop3d.models.initialisation import initialise
from coop3d.models.matched_pose import pose_from_matches
from coop3d.models.matching_head import MatchingHead
from coop3d.models.position_table import ray_turns
from coop3d.models.published import ADDITIONS
from coop3d.models.recompute import run_block
from coop3d.models.scenes import (
    check_vehicle_frame,
    group_cameras,
    join_scenes,
    split_scenes,
    ungroup_cameras,
)
from coop3d.types import FactoredPrediction, ViewInputs

IMAGE_MEAN = (0.485, 0.456, 0.406)  # what DINOv2 was trained with
IMAGE_STD = (0.229, 0.224, 0.225)

# Encoders of each modality, under the names of the published checkpoints.
MODALITY_ENCODERS = {
    "ray_dirs": ("ray_dirs_encoder",),
    "depth": ("depth_encoder", "depth_scale_encoder"),
    "pose": ("cam_rot_encoder", "cam_trans_encoder", "cam_trans_scale_encoder"),
}


class MapAnything(HubMixin, nn.Module):
    """See docs/model.md for the picture. Parameter names are those of the published checkpoints."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.config = config
        encoder, sharing, head = config.encoder, config.info_sharing.module_args, config.pred_head
        wrap, Ce, Ct = config.panorama.wrap_around, encoder.embed_dim, sharing.dim
        self.scale_token = nn.Parameter(torch.zeros(Ce))
        self.encoder = ImageEncoder(encoder, wrap)
        self._add_geometric_encoders()
        self.fusion_norm_layer = nn.LayerNorm(Ce, eps=LAYER_NORM_EPS)
        self.info_sharing = AlternatingAttention(
            Ce,
            sharing,
            config.panorama.view_role_embedding,
            config.panorama.cameras_per_vehicle // config.panorama.fused_cameras,
        )
        self.dpt_feature_head = DptFeatures(
            (Ce, Ct, Ct, Ct), head.layer_dims, head.feature_dim, wrap, head.group_norm
        )
        self.dpt_regressor_head = DptRegressor(head.feature_dim, wrap, head.group_norm)
        if head.checkpoint_policy == "selective":
            leave_outputs(self.dpt_feature_head)
            leave_outputs(self.dpt_regressor_head)
        self.pose_head = PoseHead(Ct, head.pose_hidden_dim)
        self.scale_head = ScaleHead(Ct, head.scale_hidden_dim)
        if head.matching is not None:
            fine = encoder.stem_dims[-1] if encoder.stem_dims else None
            self.matching_head = MatchingHead((Ce, Ct), fine, head.matching, wrap)
        if not self.scale_token.is_meta:
            initialise(self, config)

    def _add_geometric_encoders(self) -> None:
        inputs, Ce, P = (
            self.config.geometric_inputs,
            self.config.encoder.embed_dim,
            self.config.encoder.patch_size,
        )
        dense = {"ray_dirs_encoder": 3, "depth_encoder": 1}
        vectors = {
            "depth_scale_encoder": 1,
            "cam_rot_encoder": 4,
            "cam_trans_encoder": 3,
            "cam_trans_scale_encoder": 1,
        }
        wrap = self.config.panorama.wrap_around
        for modality in inputs.modalities:
            for name in MODALITY_ENCODERS[modality]:
                if name in dense:
                    self.add_module(name, DenseEncoder(dense[name], Ce, inputs.dense_dims, P, wrap))
                else:
                    self.add_module(name, GlobalEncoder(vectors[name], Ce, inputs.global_dims))
        if self.config.panorama.known_rays_input:
            self.ray_origins_encoder = DenseEncoder(3, Ce, inputs.dense_dims, P, wrap)

    def get_additions(self) -> dict[str, nn.Module]:
        """Sub-modules that MapAnything's checkpoints do not have, by name."""
        found = dict(self.named_modules())
        return {name: found[name] for name in ADDITIONS if name in found}

    def absent_encoders(self) -> list[str]:
        """Names of published encoders that this configuration leaves out."""
        every = [name for names in MODALITY_ENCODERS.values() for name in names]
        return [name for name in every if not hasattr(self, name)]

    def freeze_unreachable(self) -> list[str]:
        """Stop gradients of encoders whose input `ViewInputs` cannot carry; returns their names.

        They never run, so an optimiser should not hold state for them nor a parallel wrapper wait for them.
        """
        reachable = ("ray_dirs_encoder",) if self.config.panorama.known_rays_input else ()
        every = [name for names in MODALITY_ENCODERS.values() for name in names]
        frozen = [name for name in every if hasattr(self, name) and name not in reachable]
        for name in frozen:
            self.get_submodule(name).requires_grad_(False)
        return frozen

    def forward(self, inputs: ViewInputs, views_at_once: int | None = None) -> FactoredPrediction:
        """The door: what the network may see to what it predicts.

        Args:
            inputs: ``image`` [B, V, 3, H, W] RGB in [0, 1], H and W multiples of the patch size; view 0 is the
                reference. ``rays`` and ``origins`` are needed as the panorama options say.
            views_at_once: encode images and decode dense maps of so many views at a time, to save memory.

        Raises:
            ValueError: for shapes or values the network cannot take, or rays that are missing.
        """
        self._check_inputs(inputs)
        return self._compose(self.predict(*self._prepare(inputs), views_at_once=views_at_once), inputs)

    def infer(
        self,
        images: Images,
        rays: Array | Camera | None = None,
        origins: Array | None = None,
        *,
        views_at_once: int | None = None,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> FactoredPrediction:
        """Predict from pictures as they are at hand, without gradients, where the model lies (CPU or GPU).

        The result holds rays, confidence, scale and origins, and derives ``range_m``, ``T_ref_view``,
        ``points_ref``, ``points_view`` (metres) and ``non_ambiguous`` (True where a surface is seen).

        Args:
            images: a list of `Panorama` (which bring rays and origins) or of [H, W, 3] or [3, H, W] arrays or
                tensors, or one [V, 3, H, W], [V, H, W, 3] or, with a batch in front, five-axis array; uint8, or
                floating in [0, 1]. View 0 is the reference; pixels no camera sees are 0.
            rays: unit directions [..., H, W, 3] in the view's frame, one map for all views or one each; or a camera.
            origins: where rays start, [..., H, W, 3] metres in the view's frame; None means in its centre.
            views_at_once: encode and decode so many views at a time: less memory, same result.
            precision: ``auto`` is bf16 on a GPU that has it, else fp32.
            compiled: compile the transformer blocks first (`compile_blocks`); pays off after some calls.

        Raises:
            ValueError: for pictures or maps that are none of these, or rays the model needs and does not get.
        """
        return infer(
            self,
            images,
            rays,
            origins,
            views_at_once=views_at_once,
            precision=precision,
            compiled=compiled,
        )

    def forward_mixed(
        self, scenes: Sequence[ViewInputs], views_at_once: int | None = None
    ) -> list[FactoredPrediction]:
        """Scenes with different numbers of views in one pass, without padding: the same as one by one.

        Args:
            scenes: each with B = 1; all of one image size.
            views_at_once: as in `forward`.

        Raises:
            ValueError: as `forward`, or if the scenes differ in more than their number of views.
        """
        for scene in scenes:
            self._check_inputs(scene)
        joined, counts = join_scenes(scenes), tuple(scene.image.shape[1] for scene in scenes)
        packed = self.predict(*self._prepare(joined), views_at_once=views_at_once, counts=counts)
        return [self._compose(p, s) for p, s in zip(split_scenes(packed, counts), scenes, strict=True)]

    def _prepare(self, inputs: ViewInputs) -> tuple[Tensor, GeometricInputs, Tensor | None]:
        """Normalised images, known geometry, and where patch columns lie on the circle: what `predict` takes."""
        options = self.config.panorama
        geometry, turns = GeometricInputs(), None
        if options.known_rays_input:
            assert inputs.rays is not None
            origins = torch.zeros_like(inputs.rays) if inputs.origins is None else inputs.origins
            geometry = GeometricInputs(ray_dirs=inputs.rays, ray_origins=origins / options.origin_unit_m)
            turns = ray_turns(inputs.rays, self.config.encoder.patch_size) if options.wrap_around else None
        return normalise_image(inputs.image), geometry, turns

    def predict(
        self,
        image: Tensor,
        geometry: GeometricInputs | None = None,
        turns: Tensor | None = None,
        *,
        views_at_once: int | None = None,
        counts: Counts | None = None,
    ) -> FactoredPrediction:
        """MapAnything itself: normalised images and optional geometry to its own prediction.

        Args:
            image: [B, V, 3, H, W] normalised with DINOv2's mean and standard deviation.
            geometry: known rays, depths and poses; None for images only.
            turns: [B, V, w] place on the circle of each patch column (``wrap_around``), None = upright.
            views_at_once: as in `forward`.
            counts: with B = 1, the views of each scene where V holds several; ``scale`` is then [scenes].
        """
        B, V, _, H, W = image.shape
        P = self.config.encoder.patch_size
        h, w = H // P, W // P
        encoded = self._encode(
            image.flatten(0, 1), None if turns is None else turns.flatten(0, 1), views_at_once
        )
        patches = encoded.patches.unflatten(0, (B, V))
        with torch.autocast(image.device.type, enabled=False):
            fused = fuse_geometry(
                at_least_float32(patches), geometry or GeometricInputs(), self._geometric_encoders()
            )
            fused = self.fusion_norm_layer(fused)
        shared = self._share(fused, encoded.cls.unflatten(0, (B, V)), counts)
        with torch.autocast(image.device.type, enabled=False):
            prediction = self._decode(fused, shared, (h, w), (H, W), views_at_once)
            return self._match(prediction, fused, shared.final, encoded.fine, (h, w))

    def _encode(self, image: Tensor, turns: Tensor | None, views_at_once: int | None) -> EncoderOutput:
        """[N, 3, H, W] to tokens."""
        if views_at_once is None:
            return self.encoder(image, turns)
        images = image.split(views_at_once)
        places = [None] * len(images) if turns is None else turns.split(views_at_once)
        parts = [self.encoder(*part) for part in zip(images, places, strict=True)]
        fine = [part.fine for part in parts if part.fine is not None]
        return EncoderOutput(
            torch.cat([part.patches for part in parts]),
            torch.cat([part.cls for part in parts]),
            torch.cat(fine) if fine else None,
        )

    def _share(self, fused: Tensor, cls: Tensor, counts: Counts | None) -> SharedFeatures:
        """Multi-view transformer on [B, V, T, Ce], or on vehicles [B, V / K, K T, Ce] where cameras are fused."""
        K = self.config.panorama.fused_cameras
        extra = group_cameras(cls[:, :, None], K) if self.config.encoder.pass_cls_token else None
        if counts is not None:
            counts = tuple(n // K for n in counts)
        return self.info_sharing(group_cameras(fused, K), extra, self.scale_token, counts)

    def _geometric_encoders(self) -> GeometricEncoders:
        names = ("ray_dirs", "ray_origins", "depth", "depth_scale", "cam_rot", "cam_trans", "cam_trans_scale")
        return GeometricEncoders(*(getattr(self, f"{name}_encoder", None) for name in names))

    def _decode(
        self,
        fused: Tensor,
        shared: SharedFeatures,
        grid: tuple[int, int],
        size: tuple[int, int],
        views_at_once: int | None,
    ) -> FactoredPrediction:
        """[B, V, T, C] token levels to a prediction, in float32."""
        views, K = fused.shape[:2], self.config.panorama.fused_cameras
        tokens = (fused, *(ungroup_cameras(x, K) for x in (*shared.taps, shared.final)))
        levels = tuple(to_map(at_least_float32(x), *grid) for x in tokens)
        limit = self.config.pred_head.log_limit
        if self.config.pred_head.gradient_checkpointing and torch.is_grad_enabled():
            views_at_once = views_at_once or views[0]  # V passes, whatever the batch
        dense = adapt_dense(self._dense(levels, size, views_at_once).unflatten(0, views), limit)
        # One pose per view, or per vehicle and the same for all of its photographs (their maps one above the other).
        trans, quat = self.pose_head(to_map(at_least_float32(shared.final), K * grid[0], grid[1]))
        return FactoredPrediction(
            **_dense_fields(dense),
            trans=trans.repeat_interleave(K, dim=0).unflatten(0, views),
            quat_xyzw=adapt_quaternion(quat).repeat_interleave(K, dim=0).unflatten(0, views),
            scale=adapt_scale(self.scale_head(at_least_float32(shared.scale_token)), limit),
        )

    def _match(
        self,
        prediction: FactoredPrediction,
        fused: Tensor,
        final: Tensor,
        fine: Tensor | None,
        grid: tuple[int, int],
    ) -> FactoredPrediction:
        """Add descriptors, in float32."""
        if self.config.pred_head.matching is None:
            return prediction
        views = fused.shape[:2]
        tokens = (fused, ungroup_cameras(final, self.config.panorama.fused_cameras))
        levels = tuple(to_map(at_least_float32(x), *grid) for x in tokens)
        descriptors, seen = self.matching_head(levels, None if fine is None else at_least_float32(fine))
        return replace(
            prediction, descriptors=descriptors.unflatten(0, views), seen_logits=seen.unflatten(0, views)
        )

    def _dense(self, levels: tuple[Tensor, ...], size: tuple[int, int], views_at_once: int | None) -> Tensor:
        """Four [N, C, h, w] to raw [N, 6, H, W]; some views at a time when memory matters more than time."""
        head = self.config.pred_head

        def run(*part: Tensor) -> Tensor:
            return self.dpt_regressor_head(self.dpt_feature_head(part), size)

        parts = zip(*(level.split(views_at_once or len(level)) for level in levels), strict=True)
        options: dict[str, Any] = {
            "checkpointing": head.gradient_checkpointing,
            "policy": head.checkpoint_policy,
        }
        raw = [run_block(run, *part, **options) for part in parts]
        return raw[0] if len(raw) == 1 else torch.cat(raw)

    def _compose(self, prediction: FactoredPrediction, inputs: ViewInputs) -> FactoredPrediction:
        """Attach known origins and, where configured, known rays."""
        fields = dict(vars(prediction), origins=inputs.origins)
        if self.config.panorama.compose_with == "known":
            fields.update(rays=inputs.rays, predicted_rays=prediction.rays)
        composed, matching = FactoredPrediction(**fields), self.config.pred_head.matching
        if matching is None or not matching.pose or self.training:
            return composed
        panorama = self.config.panorama
        return pose_from_matches(composed, matching, panorama.fused_cameras, panorama.wrap_around)

    def _check_inputs(self, inputs: ViewInputs) -> None:
        options, P = self.config.panorama, self.config.encoder.patch_size
        image = inputs.image
        if image.ndim != 5 or image.shape[2] != 3 or not image.is_floating_point():
            raise ValueError(
                f"image is {tuple(image.shape)} {image.dtype}, expected floating [B, V, 3, H, W] in [0, 1]"
            )
        B, V, H, W = inputs.shape
        if H % P or W % P or not H * W:
            raise ValueError(
                f"image is {H} x {W} (height x width); both must be multiples of the patch size {P}, such as "
                f"{max(P, round(H / P) * P)} x {max(P, round(W / P) * P)}"
            )
        if V % options.cameras_per_vehicle:
            raise ValueError(
                f"image has {V} views, no multiple of panorama.cameras_per_vehicle={options.cameras_per_vehicle}"
            )
        if inputs.rays is None and (options.known_rays_input or options.compose_with == "known"):
            raise ValueError(
                "inputs.rays is None, but panorama.known_rays_input or compose_with=known needs the rig's rays"
            )
        for name in ("rays", "origins"):
            value = getattr(inputs, name)
            if value is not None and value.shape != (B, V, H, W, 3):
                raise ValueError(f"{name} is {tuple(value.shape)}, expected {(B, V, H, W, 3)} as the image")
        check_vehicle_frame(inputs, options.fused_cameras)


def normalise_image(image: Tensor) -> Tensor:
    """[..., 3, H, W] RGB in [0, 1] to DINOv2's mean 0 and standard deviation 1."""
    channels = zip(image.unbind(-3), IMAGE_MEAN, IMAGE_STD, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=-3)


def _dense_fields(dense: DensePrediction) -> dict[str, Tensor]:
    return dense._asdict()
