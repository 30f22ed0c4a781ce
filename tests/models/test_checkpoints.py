"""Reading weights: formats, names, and complaints."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from support.small_model import small_model, small_values

from coop3d.models import build_model, load_checkpoint
from coop3d.models.checkpoints import canonical_name, canonical_state, read_state


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
    assert load_checkpoint(model, tmp_path / "x.pth") == ["ray_origins_encoder", "info_sharing.view_role"]


def test_encoders_that_are_left_out_may_be_left_over(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "x.pth")
    model = small_model(seed=1, geometric_inputs={"modalities": ["ray_dirs"]})
    assert load_checkpoint(model, tmp_path / "x.pth") == []
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
