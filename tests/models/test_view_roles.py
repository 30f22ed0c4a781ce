"""Learned roles of views: reference or other vehicle, and which camera of the rig."""

from __future__ import annotations

import pytest
import torch
from support.small_model import random_panoramas, small_model, small_values

from coop3d.models import MapAnything, MapAnythingConfig, from_mapping, load_checkpoint
from coop3d.types import ViewInputs

RIG = {"view_role_embedding": True, "cameras_per_vehicle": 2}


def reordered(inputs, order):
    return ViewInputs(**{k: v[:, order] for k, v in vars(inputs).items()})


def zero_roles(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "view_role" in name or "rig_camera" in name:
                parameter.zero_()
    return model


def test_roles_change_nothing_until_they_are_trained(tmp_path):
    plain, inputs = small_model(), random_panoramas(B=1, V=4)
    torch.save(plain.state_dict(), tmp_path / "x.pth")
    model = MapAnything(from_mapping(MapAnythingConfig, small_values(panorama=RIG)))
    report = load_checkpoint(model, tmp_path / "x.pth")
    assert report.fresh == ("info_sharing.view_role", "info_sharing.rig_camera")
    assert torch.equal(model(inputs).distance, plain(inputs).distance)
    model(inputs).distance.log().mean().backward()
    for name in report.fresh:
        gradient = model.get_parameter(f"{name}.weight").grad
        assert gradient.abs().amax(dim=1).min() > 0, name  # each role can be learned


def test_other_vehicles_may_come_in_any_order_their_cameras_may_not():
    model, inputs = small_model(panorama=RIG), random_panoramas(B=1, V=6)
    vehicles, cameras = [0, 1, 4, 5, 2, 3], [0, 1, 3, 2, 4, 5]
    with torch.no_grad():
        before = model(inputs)
        moved, swapped = model(reordered(inputs, vehicles)), model(reordered(inputs, cameras))
    torch.testing.assert_close(moved.distance, before.distance[:, vehicles], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moved.trans, before.trans[:, vehicles], rtol=1e-3, atol=1e-4)
    assert (swapped.trans - before.trans[:, cameras]).abs().max() > 1e-3


def test_the_whole_reference_vehicle_has_its_role():
    """Roles by hand: rows 0 for views 0 and 1, cameras 0, 1, 0, 1."""
    sharing = small_model(panorama=RIG).info_sharing
    x = torch.zeros(1, 4, 1, 16)
    role, camera, code = sharing.view_role.weight, sharing.rig_camera.weight, sharing.view_pos_table[0]
    expected = torch.stack(
        [code + role[0] + camera[0], role[0] + camera[1], role[1] + camera[0], role[1] + camera[1]]
    )
    torch.testing.assert_close(sharing._mark_views(x, None)[0, :, 0], expected)
    two_scenes = sharing._mark_views(x, (2, 2))[0, :, 0]
    torch.testing.assert_close(two_scenes, expected[[0, 1, 0, 1]])


def test_without_roles_the_cameras_have_none():
    model = small_model(panorama={"cameras_per_vehicle": 2})
    assert model.info_sharing.rig_camera is None
    assert zero_roles(small_model(panorama=RIG)).info_sharing.rig_camera is not None


def test_incomplete_rigs_are_refused():
    with pytest.raises(ValueError, match=r"3 views, no multiple of panorama\.cameras_per_vehicle=2"):
        small_model(panorama=RIG)(random_panoramas(B=1, V=3))
    with pytest.raises(ValueError, match="expected at least 1"):
        small_model(panorama={"cameras_per_vehicle": 0})
