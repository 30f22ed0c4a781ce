"""The memory estimate against bytes counted on a real model on the CPU."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from support.small_model import PANORAMA, small_model

from coop3d.models import LoraOptions, MapAnything, MapAnythingConfig, Preset, from_mapping
from coop3d.models.memory import (
    LiveBytes,
    MemoryEstimate,
    Workload,
    _inputs,
    _stand_in_loss,
    estimate_memory,
    measure_activations,
    state_bytes,
)
from coop3d.training.muon import is_matrix
from coop3d.training.parallel import transformer_blocks
from coop3d.training.schedule import make_optimizer, parameter_groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WORKLOAD = Workload(views=2, height=56, width=112)
CHECKPOINTED = {name: {"gradient_checkpointing": True} for name in ("encoder", "info_sharing", "pred_head")}
HEADS = Preset(name="heads", train=("dpt_*", "pose_head.*", "scale_head.*"))


def build_config(values):
    plain = OmegaConf.to_container(values)
    del plain["_target_"]
    return from_mapping(MapAnythingConfig, plain)


def storage_bytes(tensors):
    """Bytes of distinct storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.usefixtures("quick_forecast")
@pytest.mark.parametrize("orthogonal", [False, True], ids=["adamw", "muon"])
@pytest.mark.parametrize("preset", [None, HEADS], ids=["full", "heads"])
def test_weights_gradients_and_optimiser_state_are_exact(preset, orthogonal):
    model = small_model(panorama=PANORAMA)
    model.freeze_unreachable()
    if preset is not None:
        preset.apply(model)
    estimate = estimate_memory(model.config, WORKLOAD, preset, is_matrix if orthogonal else None)
    assert estimate.weights == storage_bytes([*model.parameters(), *model.buffers()])
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameter_groups(model, 1e-3, 0.1, 1.0, orthogonal), betas=(0.9, 0.98))
    _stand_in_loss(model(_inputs(WORKLOAD, torch.device("cpu")))).backward()
    unreached = [p for p in trainable if p.grad is None]
    assert not unreached
    optimizer.step()
    assert estimate.gradients == storage_bytes(p.grad for p in trainable)
    state = [t for s in optimizer.state.values() for t in s.values()]
    assert estimate.optimiser == sum(t.nbytes for t in state)


@pytest.mark.usefixtures("quick_forecast")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("preset", [None, HEADS], ids=["full", "heads"])
def test_kept_activations_against_saved_tensors(preset, bf16):
    """Autograd's own list of what it saved; what lives besides are outputs (5 % here)."""
    model = small_model(panorama=PANORAMA)
    model.freeze_unreachable()
    if preset is not None:
        preset.apply(model)
    saved = []
    old = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in old:
            saved.append(tensor)
        return tensor

    inputs = _inputs(WORKLOAD, torch.device("cpu"))
    old |= {x.untyped_storage().data_ptr() for x in vars(inputs).values() if x is not None}
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prediction = model(inputs)
    kept = estimate_memory(model.config, replace(WORKLOAD, bf16=bf16), preset).kept
    outputs = [x for x in vars(prediction).values() if x is not None]
    assert kept == pytest.approx(storage_bytes(saved), rel=0.15)
    known = {x.untyped_storage().data_ptr() for x in vars(inputs).values() if x is not None}
    outputs = [x for x in outputs if x.untyped_storage().data_ptr() not in known]
    assert kept == pytest.approx(storage_bytes([*saved, *outputs]), rel=0.05)


@pytest.mark.parametrize("sections", [{}, CHECKPOINTED], ids=["plain", "checkpointed"])
def test_the_dry_run_counts_what_a_real_run_allocates(sections):
    model = small_model(panorama=PANORAMA, **sections)
    model.freeze_unreachable()
    estimate_memory.cache_clear()
    kept, peak = measure_activations(model, WORKLOAD)
    estimate = estimate_memory(model.config, WORKLOAD)
    assert estimate.kept == pytest.approx(kept, rel=0.01)
    assert estimate.activations == pytest.approx(peak, rel=0.01)


@pytest.mark.usefixtures("quick_forecast")
def test_checkpointing_and_frozen_parts_keep_less():
    plain = small_model(panorama=PANORAMA).config
    saving = small_model(panorama=PANORAMA, **CHECKPOINTED).config
    full, less, heads = (
        estimate_memory(plain, WORKLOAD),
        estimate_memory(saving, WORKLOAD),
        estimate_memory(plain, WORKLOAD, HEADS),
    )
    assert less.kept < 0.5 * full.kept  # the rest: dense outputs, which are large beside a small model
    assert less.activations < 0.7 * full.activations
    assert heads.kept < full.kept
    assert less.weights == full.weights


@pytest.mark.usefixtures("quick_forecast")
def test_adapters_are_counted():
    pytest.importorskip("peft")
    preset = Preset(name="lora", train=(), lora=LoraOptions(rank=2, targets=("info_sharing.*.attn.qkv",)))
    model = small_model()
    full, adapted = estimate_memory(model.config, WORKLOAD), estimate_memory(model.config, WORKLOAD, preset)
    added = 4 * 4 * (2 * 16 + 3 * 16 * 2)  # bytes x blocks x (A, B)
    assert adapted.weights == full.weights + added
    assert adapted.gradients == added
    assert adapted.kept < full.kept


@pytest.mark.usefixtures("quick_forecast")
def test_the_estimate_leaves_nothing_behind():
    model = small_model()
    state = torch.get_rng_state()
    estimate_memory.cache_clear()
    estimate_memory(model.config, WORKLOAD)
    assert torch.equal(torch.get_rng_state(), state)
    p = model(_inputs(WORKLOAD, torch.device("cpu")))  # position tables are numbers again
    assert torch.isfinite(p.points_ref).all()
    assert isinstance(p.scale[0].item(), float)


def test_sums_per_gpu_by_hand():
    estimate = MemoryEstimate(
        weights=100,
        gradients=40,
        optimiser=80,
        largest_block=7,
        root=13,
        root_gradients=3,
        kept=5,
        activations=11,
    )
    assert estimate.ddp(1) == 100 + 40 + 80 + 11
    assert estimate.ddp(2) == 100 + 40 + 80 + 40 + 11  # reduction buckets
    assert estimate.fsdp(1) == estimate.ddp(1)
    assert estimate.fsdp(4) == Fraction(220, 4) + 13 + 2 * 3 + 2 * 7 + 11
    assert "sum per GPU, FSDP on 4" in estimate.table(4, WORKLOAD)


def test_low_precision_keeps_no_copy_of_recomputed_weights(monkeypatch):
    """Autocast's cache would hold one of every weight from its use to the end of the forward pass."""
    model = small_model(info_sharing={"dim": 64, "depth": 8, "gradient_checkpointing": True}).train()
    few = Workload(views=2, height=14, width=14, bf16=True)
    _, without = measure_activations(model, few)
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *a, cache_enabled=True, **k: autocast(*a, **k))
    _, cached = measure_activations(model, few)
    weights = [p for b in model.info_sharing.self_attention_blocks for p in b.parameters() if p.ndim == 2]
    assert cached - without > sum(p.numel() for p in weights)  # bytes: half of their bf16 copies


def test_live_bytes_by_hand():
    with LiveBytes() as counter:
        a = torch.zeros(10)
        b = a.view(2, 5)[0]
        c = b + 1
        assert counter.live == 40 + 20
        del a, b
        assert counter.live == 20
        c.add_(1)
        assert counter.live == 20
    assert counter.peak == 60


def test_what_fsdp_gathers_is_the_blocks_that_it_cuts_and_the_rest_at_once():
    model = small_model()
    model.encoder.requires_grad_(False)
    blocks = list(transformer_blocks(model))
    found, inside = state_bytes(model), sum(parameter_bytes(b) for b in blocks)
    assert found["largest_block"] == max(map(parameter_bytes, blocks))
    assert found["root"] == parameter_bytes(model) - inside
    outside_encoder = parameter_bytes(model.encoder) - sum(map(parameter_bytes, model.encoder.model.blocks))
    assert found["root_gradients"] == found["root"] - outside_encoder


def parameter_bytes(module):
    return sum(p.nbytes for p in module.parameters())


def test_the_published_size_rules_out_replication():
    """1.2 G parameters at 4 + 4 + 8 bytes each: 18 GiB before the first activation."""
    with torch.device("meta"):
        values = OmegaConf.load(CONFIGS / "model" / "mapanything_v1_1.yaml")
        values.geometric_inputs.modalities = ["ray_dirs", "depth", "pose"]
        values.pop("panorama")
        model = MapAnything(build_config(values))
    state = state_bytes(model)
    total = state["weights"] + state["gradients"] + state["optimiser"]
    assert total == pytest.approx(16 * 1_228_491_222, rel=1e-5)  # the rest: a buffer, step counters
