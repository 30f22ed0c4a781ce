"""Folders in Hugging Face's layout, without and with its library."""

from __future__ import annotations

import inspect
import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.small_model import PANORAMA, random_panoramas, small_model

from coop3d.models import MapAnything
from coop3d.models.hub import read_config
from coop3d.models.published import canonical_name, published_state


def test_a_model_comes_back_from_its_folder(tmp_path):
    source = small_model(seed=3, panorama=PANORAMA)
    source.save_pretrained(tmp_path / "model")
    model = MapAnything.from_pretrained(tmp_path / "model")
    assert not model.training
    assert model.config == source.config
    inputs = random_panoramas(B=1)
    with torch.no_grad():
        assert torch.equal(model(inputs).points_ref, source(inputs).points_ref)
    assert {p.data_ptr() % 64 for p in model.parameters()} == {0}  # not in the middle of a file's memory


def test_the_folder_holds_each_tensor_once_under_a_published_name(tmp_path):
    source = small_model()
    source.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() <= published_state(source.state_dict()).keys()
    assert sorted(map(canonical_name, stored)) == sorted(source.state_dict())
    assert "dense_head.0.input_process.0.1.weight" in stored  # the first of its names, as published
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_config"]["pretrained_checkpoint_path"] is None


def test_sections_change_the_stored_configuration(tmp_path):
    small_model(seed=3).save_pretrained(tmp_path)
    model = MapAnything.from_pretrained(tmp_path, panorama=PANORAMA, encoder={"gradient_checkpointing": True})
    assert model.config.panorama.wrap_around
    assert model.config.encoder.gradient_checkpointing
    assert torch.isfinite(model(random_panoramas(B=1)).points_ref).all()
    module = {
        "module_args": {"gradient_checkpointing": True}
    }  # a section of a section: what is beside it stays
    deeper = MapAnything.from_pretrained(tmp_path, info_sharing=module).config.info_sharing.module_args
    assert deeper == replace(model.config.info_sharing.module_args, gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"did you mean panorama\.wrap_around"):
        MapAnything.from_pretrained(tmp_path, panorama={"wrap_arond": True})


def test_a_published_configuration_is_understood(tmp_path):
    published = {
        "name": "mapanything",
        "encoder_config": {
            "size": "giant",
            "keep_first_n_layers": 24,
            "norm_returned_features": False,
        },
        "info_sharing_config": {
            "module_args": {
                "dim": 1536,
                "depth": 16,
                "num_heads": 24,
                "indices": [7, 11],
                "init_values": 1e-5,
            }
        },
        "info_sharing_mlp_layer_str": "swiglufused",
        "use_register_tokens_from_encoder": True,
        "pred_head_config": {"feature_head": {"feature_dim": 256}, "scale_head": {}},
        "geometric_input_config": {"ray_dirs_encoder_config": {}, "cam_rot_encoder_config": {}},
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = read_config(tmp_path, {"panorama": {"wrap_around": True}})
    with torch.device("meta"):
        model = MapAnything(config)
    assert sum(p.numel() for p in model.parameters()) == 1_228_491_222
    assert config.panorama.wrap_around


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        MapAnything.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder, and no owner/name"):
        MapAnything.from_pretrained(tmp_path / "nothing")


def test_without_the_library_the_hub_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import of it fails
    with pytest.raises(ValueError, match=r"pip install 'coop3d\[hub\]'"):
        MapAnything.from_pretrained("facebook/map-anything")
    with pytest.raises(ValueError, match=r"coop3d\[hub\]"):
        small_model().push_to_hub("someone/model")


def test_push_uploads_the_folder_and_fetch_reads_it(monkeypatch, tmp_path):
    """Against a stand-in with the library's signatures: nothing leaves the machine."""
    uploaded = {}

    class Api:
        def __init__(self, token=None):
            uploaded["token"] = token

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            return types.SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
            uploaded[repo_id] = MapAnything.from_pretrained(folder_path)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id, *, allow_patterns, revision, token, cache_dir, local_files_only):
        uploaded[repo_id].save_pretrained(tmp_path)
        return str(tmp_path)

    stand_in = types.SimpleNamespace(HfApi=Api, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    source = small_model(seed=3)
    assert source.push_to_hub("someone/model", token="t") == "https://hub/someone/model/commit/1"
    fetched = MapAnything.from_pretrained("someone/model")
    assert torch.equal(fetched.scale_token, source.scale_token)


def test_the_stand_in_has_the_librarys_signatures():
    hub = pytest.importorskip("huggingface_hub")
    download = inspect.signature(hub.snapshot_download).parameters
    assert {"allow_patterns", "revision", "token", "cache_dir", "local_files_only"} <= download.keys()
    upload = inspect.signature(hub.HfApi.upload_folder).parameters
    assert {"repo_id", "folder_path", "commit_message", "revision"} <= upload.keys()
