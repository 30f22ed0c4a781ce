"""Model configurations: every file builds, sizes are the published ones, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from support.configs import composed
from support.small_model import random_panoramas, small_values

from coop3d.conf import compose
from coop3d.models import MapAnything, MapAnythingConfig, build_model, from_mapping

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"
NAMES = ("tiny", "small", "mapanything", "mapanything_v1_1")
TEAM_OVERRIDES = (
    "model_config.pretrained_checkpoint_path",
    "encoder.gradient_checkpointing",
    "info_sharing.module_args.gradient_checkpointing",
    "pred_head.gradient_checkpointing",
)
EVERY_INPUT = ("ray_dirs", "depth", "pose")


def published(name):
    """A config file with only what Meta's model has."""
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    del values["_target_"], values["panorama"]
    values["geometric_inputs"]["modalities"] = list(EVERY_INPUT)
    with torch.device("meta"):
        return MapAnything(from_mapping(MapAnythingConfig, values))


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("mapanything", 563_335_382, 804), ("mapanything_v1_1", 1_228_491_222, 736)],
)
def test_published_sizes(name, parameters, tensors):
    model = published(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors  # counting the reference view's code, a buffer


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_and_has_the_teams_overrides(name):
    cfg = OmegaConf.load(CONFIGS / f"{name}.yaml")
    for path in TEAM_OVERRIDES:
        assert OmegaConf.select(cfg, path, default="absent") != "absent", path
    with torch.device("meta"):
        model = hydra.utils.instantiate(cfg)
    assert isinstance(model, MapAnything)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in model.parameters())  # no encoder without an input


@pytest.mark.parametrize("name", ["mapanything", "mapanything_v1_1"])
def test_the_large_models_with_a_matching_head_differ_by_it_alone(name):
    with torch.device("meta"):
        plain, matching = (hydra.utils.instantiate(composed("model", n)) for n in (name, f"{name}_matching"))
    more = set(matching.state_dict()) - set(plain.state_dict())
    assert more
    assert all(key.startswith("matching_head.") for key in more)
    assert set(plain.state_dict()) < set(matching.state_dict())


def test_medium_fits_its_panoramas_and_shares_its_batch_among_gpus():
    cfg = compose(
        "train", ("machine=synth", "model=medium", "dataset=opv2v_cyl_coop_medium", "train_params=medium")
    )
    small = composed("model", "small")
    with torch.device("meta"):
        model, smaller = hydra.utils.instantiate(cfg.model), hydra.utils.instantiate(small)
    assert set(smaller.state_dict()) < set(model.state_dict())  # deeper, and nothing else
    grid = cfg.model.encoder.position_grid
    P = cfg.model.encoder.patch_size
    assert [cfg.dataset.camera.height // P, cfg.dataset.camera.width // P] == grid
    assert all(cfg.train_params.global_batch % gpus == 0 for gpus in (1, 2, 4, 8, 10))


def test_tiny_is_small_and_starts_well():
    torch.manual_seed(0)
    model = hydra.utils.instantiate(OmegaConf.load(CONFIGS / "tiny.yaml"))
    assert sum(p.numel() for p in model.parameters()) < 10e6
    with torch.no_grad():
        p = model(random_panoramas(B=1, V=2, h=9, w=36))
    assert 10 < float(p.scale) < 20
    assert p.distance.log().abs().mean() < 0.5
    torch.testing.assert_close(p.T_ref_view, torch.eye(4).expand(1, 2, 4, 4))


def test_encoders_without_an_input_are_frozen():
    model = build_model(**small_values(panorama={"known_rays_input": True}))
    frozen = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    names = ("depth", "depth_scale", "cam_rot", "cam_trans", "cam_trans_scale")
    assert frozen == {f"{name}_encoder" for name in names}
    model(random_panoramas(B=1)).points_ref.mean().backward()
    reached = ("dpt_regressor_head", "ray_dirs_encoder", "ray_origins_encoder", "encoder", "pose_head")
    assert all(p.grad is not None for name in reached for p in model.get_submodule(name).parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"embed_dims": 8}}, "unknown .* encoder.embed_dims; did you mean encoder.embed_dim?"),
        ({"info_sharing": {"gradient_checkpoint": True}}, "module_args.gradient_checkpointing"),
        ({"encoder": {"depth": "six"}}, "encoder.depth is 'six', expected int"),
        ({"encoder": {"gradient_checkpointing": 1}}, "expected bool"),
        ({"encoder": {"mlp": "relu"}}, "expected one of 'gelu', 'swiglu'"),
        ({"encoder": {"num_heads": 5}}, "not a multiple of num_heads = 5"),
        ({"info_sharing": {"indices": [1, 9]}}, "below depth = 4"),
        ({"pred_head": {"layer_dims": 4}}, "pred_head.layer_dims is 4, expected a list"),
        ({"panorama": {"origin_unit_m": 0}}, "metres > 0"),
        ({"geometric_inputs": {"modalities": ["depth"]}, "panorama": {"known_rays_input": True}}, "ray_dirs"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_model(**small_values(**change))


def test_a_missing_value_and_a_wrong_section_are_named():
    values = small_values()
    del values["encoder"]["embed_dim"]
    with pytest.raises(ValueError, match=r"encoder\.embed_dim is missing"):
        build_model(**values)
    with pytest.raises(ValueError, match="did you mean encoder"):
        build_model(**small_values(), encoders={})
    with pytest.raises(ValueError, match="expected a mapping"):
        build_model(**{**small_values(), "encoder": 3})
