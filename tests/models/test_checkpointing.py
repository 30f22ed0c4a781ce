"""Gradient checkpointing and its policies: the same gradients from fewer kept bytes; float32 islands of autocast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import composed
from support.small_model import PANORAMA, random_panoramas, small_model
from torch.utils.flop_counter import FlopCounterMode

from coop3d.models import GeometricInputs
from coop3d.models.memory import Workload, estimate_memory

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"
PARTS = ("encoder", "info_sharing", "pred_head")
WORKLOAD = Workload(views=2, height=56, width=112)


def sections(policy, parts=PARTS):
    """None: no checkpointing."""
    options = {} if policy is None else {"gradient_checkpointing": True, "checkpoint_policy": policy}
    return {"panorama": PANORAMA, **{name: dict(options) for name in parts}}


def gradients(model, inputs):
    p = model(inputs)
    (p.points_ref.square().mean() + p.confidence.mean() + p.mask_logits.square().mean()).backward()
    return {name: q.grad for name, q in model.named_parameters() if q.grad is not None}


@pytest.mark.parametrize("parts", [PARTS, *((name,) for name in PARTS)], ids="+".join)
@pytest.mark.parametrize("policy", ["full", "selective"])
def test_gradients_are_those_without_checkpointing(policy, parts):
    inputs = random_panoramas(B=2, V=2)._map(torch.Tensor.double)
    expected = gradients(small_model(**sections(None)).double(), inputs)
    found = gradients(small_model(**sections(policy, parts)).double(), inputs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.usefixtures("quick_forecast")
@pytest.mark.parametrize("part", PARTS)
def test_selective_keeps_more_than_full_and_less_than_all(part):
    kept = {
        p: estimate_memory(small_model(**sections(p, (part,))).config, WORKLOAD).kept
        for p in (None, "full", "selective")
    }
    assert kept["full"] < kept["selective"] < kept[None]


def test_selective_repeats_no_matrix_product():
    flops = {}
    for policy in (None, "full", "selective"):
        model = small_model(**sections(policy))
        with FlopCounterMode(display=False) as counter:
            gradients(model, random_panoramas(B=1, V=2))
        flops[policy] = counter.get_total_flops()
    assert flops["selective"] == flops[None]
    assert flops["full"] > 1.15 * flops[None]  # a forward pass is a third of a step; some is outside blocks


def test_the_teams_overrides_are_these_keys_and_on_for_large_models():
    for path in CONFIGS.glob("*.yaml"):
        cfg = composed("model", path.stem)
        for part in ("encoder", "info_sharing.module_args", "pred_head"):
            assert OmegaConf.select(cfg, f"{part}.gradient_checkpointing") is ("mapanything" in path.stem)
            assert OmegaConf.select(cfg, f"{part}.checkpoint_policy") == "full"


class Dtypes:
    """Types of a module's tensors while it runs."""

    def __init__(self, model, names):
        self.inputs, self.outputs = {}, {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name):
        def record(_module, inputs, output):
            self.inputs[name], self.outputs[name] = types_of(inputs), types_of(output)

        return record


def types_of(values):
    if isinstance(values, torch.Tensor):
        return {values.dtype}
    return {t for value in values or () if not isinstance(value, (int, float)) for t in types_of(value)}


ISLANDS = (
    "ray_dirs_encoder", "ray_origins_encoder", "depth_encoder", "depth_scale_encoder", "cam_rot_encoder",
    "cam_trans_encoder", "cam_trans_scale_encoder", "fusion_norm_layer", "dpt_feature_head.scratch.refinenet1",
    "dpt_feature_head.input_process.0", "dpt_regressor_head", "pose_head", "scale_head",
)  # fmt: skip
LOW = (
    "encoder.model.blocks.0.attn",
    "encoder.model.blocks.1.mlp.fc1",
    "info_sharing.self_attention_blocks.3.attn",
)
STREAMS = ("encoder.model.blocks.1", "info_sharing.self_attention_blocks.3", "info_sharing.norm")


@pytest.mark.parametrize("policy", [None, "full", "selective"])
def test_float32_islands_under_bfloat16(policy):
    model, inputs = small_model(**sections(policy)), random_panoramas(B=1, V=2)
    seen = Dtypes(model, (*ISLANDS, *LOW, *STREAMS))
    geometry = GeometricInputs(
        ray_dirs=inputs.rays,
        ray_origins=inputs.origins,
        depth=torch.rand(1, 2, *inputs.shape[2:]) + 1,
        quat_xyzw=torch.tensor([0.0, 0, 0, 1]).expand(1, 2, 4),
        trans=torch.rand(1, 2, 3),
        is_metric=torch.ones(1, 2, dtype=torch.bool),
    )
    codes = []
    position_codes = model.encoder.model.position_codes
    model.encoder.model.position_codes = lambda *a: codes.append(position_codes(*a)) or codes[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model.predict(inputs.image, geometry)
    for name in ISLANDS:
        assert seen.inputs[name] == seen.outputs[name] == {torch.float32}, name
    assert codes[0].dtype == torch.float32
    for name in LOW:
        assert seen.outputs[name] == {torch.bfloat16}, name
    for name in STREAMS:
        assert seen.outputs[name] == {torch.float32}, name
    assert types_of([x for x in vars(prediction).values() if x is not None]) == {torch.float32}
    (prediction.points_ref.mean() + prediction.confidence.mean()).backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
