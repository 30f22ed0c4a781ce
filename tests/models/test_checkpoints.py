"""Reading weights: formats, names, and complaints."""

from __future__ import annotations

import argparse
import json
import pickle

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from support.small_model import random_panoramas, small_model, small_values

from coop3d.models import build_model, load_checkpoint, save_checkpoint
from coop3d.models.published import canonical_name, canonical_state
from coop3d.models.weight_files import read_state


def published_names(state):
    """The same tensors under the names (and with the repetitions) of Meta's files."""
    result = {}
    for name, tensor in state.items():
        result[name] = tensor
        for ours, theirs in (
            ("dpt_feature_head.", "dense_head.0."),
            ("dpt_regressor_head.", "dense_head.1."),
        ):
            if name.startswith(ours):
                result[theirs + name.removeprefix(ours)] = tensor
        if name.startswith("dpt_feature_head.scratch.layer"):
            level = int(name.split(".")[2][5]) - 1
            for prefix in ("dpt_feature_head", "dense_head.0"):
                result[f"{prefix}.scratch.layer_rn.{level}.weight"] = tensor
                result[f"{prefix}.input_process.{level}.1.weight"] = tensor
    return result


def kept_by_safetensors(state):
    """safetensors keeps the alphabetically first name of a shared tensor."""
    first = {}
    for name in sorted(published_names(state)):
        first.setdefault(canonical_name(name), name)
    return {name: state[ours].clone() for ours, name in first.items()}


@pytest.mark.parametrize("kind", ["model.pth", "bare.pt", "weights.safetensors", "folder"])
def test_every_format_loads_into_a_fresh_model(tmp_path, kind):
    source = small_model(seed=3)
    state = source.state_dict()
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
        save_file(kept_by_safetensors(state), path / "model.safetensors")
    elif kind == "weights.safetensors":
        save_file({k: v.clone() for k, v in state.items()}, path)
    else:
        named = published_names(state)
        torch.save({"model": named, "epoch": 3} if kind == "model.pth" else named, path)
    values = small_values(model_config={"pretrained_checkpoint_path": str(path)})
    loaded = build_model(**values).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_a_moving_average_is_what_validation_measured(tmp_path):
    raw, average = small_model(seed=3).state_dict(), small_model(seed=4).state_dict()
    torch.save({"model": raw, "ema": average}, tmp_path / "checkpoint-best.pth")
    values = small_values(model_config={"pretrained_checkpoint_path": str(tmp_path / "checkpoint-best.pth")})
    loaded = build_model(**values).state_dict()
    assert all(torch.equal(loaded[k], average[k]) for k in average)


def test_additions_may_be_missing_and_start_at_zero(tmp_path):
    source = small_model()
    torch.save({"model": source.state_dict()}, tmp_path / "x.pth")
    options = {"known_rays_input": True, "view_role_embedding": True}
    values = small_values(
        panorama=options, model_config={"pretrained_checkpoint_path": str(tmp_path / "x.pth")}
    )
    model = build_model(**values)
    assert not any(p.is_meta for p in model.parameters())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not model.get_parameter("ray_origins_encoder.norm_layer.weight").any()
    assert not model.get_parameter("info_sharing.view_role.weight").any()
    report = load_checkpoint(model, tmp_path / "x.pth")
    assert report.fresh == ("ray_origins_encoder", "info_sharing.view_role")
    assert "starting at zero effect: ray_origins_encoder, info_sharing.view_role" in str(report)


def test_encoders_that_are_left_out_may_be_left_over(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "x.pth")
    model = small_model(seed=1, geometric_inputs={"modalities": ["ray_dirs"]})
    report = load_checkpoint(model, tmp_path / "x.pth")
    assert report.fresh == ()
    assert set(report.left_out) == set(model.absent_encoders())
    assert report.loaded == len(model.state_dict())
    assert torch.equal(model.scale_token, small_model().scale_token)


def test_every_kind_of_mismatch_is_listed(tmp_path):
    state = small_model().state_dict()
    del state["pose_head.fc_t.bias"]
    state["pose_head.fc_r.bias"] = torch.zeros(3)
    state["scale_token"] = torch.zeros(5)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_checkpoint(small_model(), tmp_path / "x.pth")
    text = str(error.value)
    assert "1 tensors missing: pose_head.fc_t.bias" in text
    assert "1 tensors unexpected: pose_head.fc_r.bias" in text
    assert "scale_token [5] instead of [24]" in text
    assert "model=mapanything (v1) or model=mapanything_v1_1" in text


def test_a_training_checkpoint_of_another_model_names_its_own(tmp_path):
    payload = {"model": {"x": torch.zeros(1)}, "config": {"model": {"model_config": {"name": "small"}}}}
    torch.save(payload, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"It is a checkpoint of model=small .*choose that") as error:
        load_checkpoint(small_model(), tmp_path / "x.pth")
    assert "mapanything_v1_1" not in str(error.value)


def test_part_of_an_addition_is_a_mismatch(tmp_path):
    model = small_model(panorama={"known_rays_input": True})
    state = model.state_dict()
    del state["ray_origins_encoder.conv_in.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"missing: ray_origins_encoder\.conv_in\.bias"):
        load_checkpoint(model, tmp_path / "x.pth")


def test_two_values_under_one_name_are_refused():
    name = "dpt_regressor_head.conv1.bias"
    state = {name: torch.zeros(2), "dense_head.1.conv1.bias": torch.ones(2)}
    with pytest.raises(ValueError, match="different values"):
        canonical_state(state)


def test_the_prefix_of_a_parallel_wrapper_is_removed():
    assert canonical_state({"module.scale_token": torch.zeros(1)}).keys() == {"scale_token"}


def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="pretrained_checkpoint_path"):
        read_state(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        read_state(tmp_path)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        read_state(tmp_path / "x.pth")


class Payload:
    def __reduce__(self):
        return print, ("a checkpoint must not run code",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"model": {"x": torch.zeros(1)}, "extra": Payload()}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        read_state(tmp_path / "x.pth")
    assert "run code" not in capsys.readouterr().out


def test_the_configs_of_a_training_checkpoint_are_stepped_over(tmp_path):
    args = OmegaConf.create({"model": {"name": "x", "sizes": [1, 2.5, None]}, "lr": 1e-4})
    args.path = tmp_path
    source = small_model(seed=3)
    payload = {"model": source.state_dict(), "args": args, "old": argparse.Namespace(a=1), "epoch": 4}
    torch.save(payload, tmp_path / "checkpoint-best.pth")
    state = read_state(tmp_path / "checkpoint-best.pth")
    assert all(torch.equal(state[k], v) for k, v in source.state_dict().items())


def test_saved_checkpoints_have_every_published_name_and_come_back(tmp_path):
    source = small_model(seed=3)
    save_checkpoint(source, tmp_path / "checkpoint-last.pth", epoch=3)
    payload = torch.load(tmp_path / "checkpoint-last.pth", weights_only=True)
    assert payload["epoch"] == 3
    assert payload["model"].keys() == published_names(source.state_dict()).keys()
    target = small_model(seed=4)
    assert load_checkpoint(target, tmp_path / "checkpoint-last.pth").loaded == len(source.state_dict())
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


def test_only_the_submodules_asked_for_are_loaded(tmp_path):
    source, before = small_model(seed=3).state_dict(), small_model(seed=4).state_dict()
    torch.save(source, tmp_path / "x.pth")
    model = small_model(seed=4)
    report = load_checkpoint(model, tmp_path / "x.pth", ["encoder", "info_sharing.norm", "scale_token"])
    for name, tensor in model.state_dict().items():
        asked = name.startswith(("encoder.", "info_sharing.norm.")) or name == "scale_token"
        assert torch.equal(tensor, (source if asked else before)[name]), name
    assert report.loaded + report.not_asked == len(source)
    with pytest.raises(ValueError, match=r"no sub-module 'encodr' to load; it has .*encoder"):
        load_checkpoint(model, tmp_path / "x.pth", ["encodr"])


def test_a_config_may_ask_for_submodules(tmp_path):
    source = small_model(seed=3)
    torch.save({k: v for k, v in source.state_dict().items() if k.startswith("encoder.")}, tmp_path / "x.pth")
    options = {"pretrained_checkpoint_path": str(tmp_path / "x.pth"), "pretrained_submodules": ["encoder"]}
    model = build_model(**small_values(model_config=options))
    name = "encoder.model.cls_token"
    assert torch.equal(model.get_parameter(name), source.get_parameter(name))
    assert torch.isfinite(model.scale_token).all()


def test_a_sharded_folder_and_a_cached_repository_load(tmp_path):
    state = {k: v.clone() for k, v in small_model(seed=3).state_dict().items()}
    folder = tmp_path / "models--a--b" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("abc")
    halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    weight_map = {}
    for i, half in enumerate(halves):
        save_file(half, folder / f"part{i}.safetensors")
        weight_map |= dict.fromkeys(half, f"part{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_state(tmp_path / "models--a--b").keys() == state.keys()
    (folder / "part1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names part1\.safetensors"):
        read_state(folder)


@pytest.mark.parametrize(
    ("wrap", "submodules", "expected"),
    [(True, None, 7.0), (False, None, None), (True, ["scale_token"], None)],
)
def test_report_says_how_far_the_position_table_is_from_a_circle(tmp_path, wrap, submodules, expected):
    values = small_values(encoder={"position_grid": [2, 8]}, panorama={"wrap_around": wrap})
    source = build_model(**values)
    with torch.no_grad():
        source.encoder.model.position_table().copy_(torch.arange(8.0)[None, :, None])
    save_checkpoint(source, tmp_path / "weights.pth")
    report = load_checkpoint(build_model(**values), tmp_path / "weights.pth", submodules)
    assert report.seam_jump == (expected and pytest.approx(expected))
    assert ("7.00 times the step" in str(report)) is (expected is not None)


def test_of_a_training_checkpoint_only_the_weights_are_read(tmp_path, monkeypatch):
    """Its moments are twice as large, and each of ten processes opens it: they stay in the file."""
    path, weights = tmp_path / "checkpoint-last.pth", torch.arange(1000.0)
    torch.save({"model": {"w": weights}, "ema": None, "optimizer": torch.ones(100_000)}, path)
    asked, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k) or load(*a, **k))
    state = read_state(path)
    assert asked[0]["mmap"]
    with path.open("r+b") as file:  # not a new file: mapped tensors would change with it
        file.write(bytes(path.stat().st_size))
    assert torch.equal(state["w"], weights)


@pytest.mark.parametrize("seed", range(4))
def test_a_fresh_matching_head_leaves_poses_as_they_were(tmp_path, seed):
    """Its random descriptors must not outvote a pose head that has learned; training it gives it a say."""
    source = small_model(seed=3).eval()
    save_checkpoint(source, tmp_path / "x.pth")
    matching = {"matching": {"dim": 8, "hidden_dim": 8}}
    model = small_model(pred_head=matching, seed=seed).eval()
    report = load_checkpoint(model, tmp_path / "x.pth")
    assert report.fresh == ("matching_head",)
    inputs = random_panoramas(B=1, V=3)
    with torch.no_grad():
        before, after = source(inputs), model(inputs)
    assert (after.pose_support == 0).all()
    torch.testing.assert_close(after.trans, before.trans, rtol=1e-5, atol=1e-6)
    assert all(p.requires_grad for p in model.matching_head.parameters())


def test_additions_that_a_file_lacks_start_anew_in_a_model_that_was_trained(tmp_path):
    save_checkpoint(small_model(), tmp_path / "x.pth")
    model = small_model(panorama={"view_role_embedding": True})
    torch.nn.init.constant_(model.info_sharing.view_role.weight, 3.0)
    report = load_checkpoint(model, tmp_path / "x.pth")
    assert report.fresh == ("info_sharing.view_role",)
    assert not model.info_sharing.view_role.weight.any()
    torch.nn.init.constant_(model.info_sharing.view_role.weight, 3.0)
    load_checkpoint(model, tmp_path / "x.pth", submodules=["encoder"])
    assert (model.info_sharing.view_role.weight == 3.0).all()
