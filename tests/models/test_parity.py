"""Recorded outputs of the published implementation, where they are at hand, and the comparison itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.scripts import run_script

from coop3d.models import MapAnything
from coop3d.models.parity import Fixture, deviation
from coop3d.models.published import canonical_name, config_from_published, published_state

PROJECT = Path(__file__).resolve().parents[2]
RECORDINGS = PROJECT.parent / "shared" / "parity"
needs_recordings = pytest.mark.skipif(
    not (RECORDINGS / "manifest.json").is_file(), reason=f"no recordings in {RECORDINGS}"
)


@needs_recordings
@pytest.mark.parametrize("arch", ["a", "b"])
def test_every_recorded_tensor_is_reproduced(arch):
    compared = 0
    for run, deviations in Fixture(RECORDINGS).compare(arch):
        outside = [d for d in deviations if not d.ok]
        assert not outside, f"{run}: {outside}"
        compared += len(deviations)
    assert compared > 140


@needs_recordings
@pytest.mark.parametrize("version", ["v1", "v1_1"])
def test_every_published_name_and_shape_exists(version):
    published = json.loads((RECORDINGS / f"mapanything_{version}_param_shapes.json").read_text())
    with torch.device("meta"):
        model = MapAnything(config_from_published(published))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == published["unique_parameters"] | published["buffers"]
    assert {canonical_name(name) for name in published["state_dict_keys"]} == ours.keys()
    everything = {name: list(tensor.shape) for name, tensor in published_state(model.state_dict()).items()}
    assert everything == published["state_dict_keys"]
    for name, aliases in published["aliases"].items():
        assert {canonical_name(alias) for alias in aliases} == {name}


def test_deviation_by_hand():
    d = deviation("x", torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
    assert d.relative_l2 == pytest.approx(0.1)
    assert d.max_error == pytest.approx(0.1)
    assert not d.ok
    assert not deviation("x", torch.tensor([float("nan")]), torch.tensor([1.0])).ok
    assert deviation("x", torch.zeros(2), torch.zeros(2)).ok
    with pytest.raises(ValueError, match="shape"):
        deviation("x", torch.zeros(2), torch.zeros(3))


@needs_recordings
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("model", "b geo_r1 mid/info_sharing.intermediate1"),
        ("losses", "loss mixed opv2v_train gradients (50)"),
    ],
)
@pytest.mark.parametrize(("limit", "status"), [(1e-5, 0), (1e-9, 1)])
def test_the_script_fails_where_a_limit_is_exceeded(part, line, limit, status, monkeypatch):
    monkeypatch.setattr("coop3d.models.parity.RELATIVE_L2_LIMIT", limit)
    command = ("check_mapanything_parity.py", "--fixture", RECORDINGS, "--parts", part)
    table = run_script(*command, status=status).stdout
    assert line in table
    assert ("EXCEEDED" in table) == bool(status)


def test_the_script_says_what_a_folder_lacks(tmp_path):
    for arguments, missing in ((), "manifest.json"), (("--parts", "losses"), "losses.json"):
        command = ("check_mapanything_parity.py", "--fixture", tmp_path, *arguments)
        assert missing in run_script(*command, status=2).stderr
