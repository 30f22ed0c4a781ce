"""Poses from matches where the photographs of a vehicle have one pose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.matched import position_errors, with_place_codes
from support.small_model import small_model
from support.street_photographs import CENTRES, TURNS, K, fused_batch, fused_prediction

from coop3d.geometry import invert_rigid
from coop3d.models import matched_pose
from coop3d.models.config import MatchingConfig
from coop3d.models.matched_pose import pose_from_matches
from coop3d.types import ViewInputs

GRID = (16, 24)  # cells of 4 x 4 pixels
FUSED = {
    "known_rays_input": True,
    "compose_with": "known",
    "view_role_embedding": True,
    "cameras_per_vehicle": K,
    "fuse_cameras": True,
}


def seen_world(vehicles: int):
    """The truth, and a prediction of right matches and wrong regressed poses."""
    truth = fused_batch(vehicles)
    return truth, with_place_codes(fused_prediction(truth), truth, GRID)


def test_matches_over_all_photographs_replace_the_vehicles_wrong_poses():
    truth, p = seen_world(3)
    assert float(position_errors(p, truth)[K:].min()) > 20
    found = pose_from_matches(p, MatchingConfig(), K)
    assert float(position_errors(found, truth).max()) < 0.5
    turn = found.T_ref_view[0, :, :3, :3].mT @ truth.targets.T_ref_view[0, :, :3, :3]
    assert float((3 - turn.diagonal(dim1=-2, dim2=-1).sum(-1)).max()) < 1e-3
    by_vehicle = found.T_ref_view[0].unflatten(0, (3, K))
    torch.testing.assert_close(by_vehicle, by_vehicle[:, :1].expand_as(by_vehicle), rtol=0, atol=0)
    support = found.pose_support[0].view(3, K)
    assert bool((support[1:] > 3).all())
    assert bool((support == support[:, :1]).all())
    assert float(support[0].max()) == 0  # the reference needs none
    torch.testing.assert_close(found.T_ref_view[0, :K], p.T_ref_view[0, :K])


def test_no_match_is_sought_inside_a_vehicle(monkeypatch):
    _, p = seen_world(3)
    asked = []
    monkeypatch.setattr(
        matched_pose, "_align", lambda a, b, config: asked.append((a.descriptors, b.descriptors))
    )
    found = pose_from_matches(p, MatchingConfig(), K)
    vehicles = p.descriptors[0].unflatten(0, (3, K)).flatten(1, 3)  # [3, cells of four photographs, D]
    assert [a.shape for a, _ in asked] == [(K * 16 * 24, 128)] * 3
    for (a, b), (i, j) in zip(asked, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert torch.equal(a, vehicles[i])
        assert torch.equal(b, vehicles[j])
    torch.testing.assert_close(found.T_ref_view, p.T_ref_view)  # nothing aligned, so regressed poses stay
    assert float(found.pose_support.abs().max()) == 0


def test_vehicles_out_of_sight_are_joined_by_a_third():
    """Codes of the reference and of vehicle 2 have no channel in common; both share some with vehicle 1."""
    truth, p = seen_world(3)
    first, second = p.descriptors.clone(), p.descriptors.clone()
    first[:, 2 * K :], second[:, :K] = 0, 0
    found = pose_from_matches(replace(p, descriptors=torch.cat([first, second], -1)), MatchingConfig(), K)
    assert float(position_errors(found, truth).max()) < 1.0
    T_12 = invert_rigid(found.T_ref_view[0, K]) @ found.T_ref_view[0, 2 * K]
    expected = invert_rigid(truth.targets.T_ref_view[0, K]) @ truth.targets.T_ref_view[0, 2 * K]
    torch.testing.assert_close(T_12[:3, 3], expected[:3, 3], atol=0.5, rtol=0)


def test_every_match_is_as_uncertain_as_its_larger_cell(monkeypatch):
    _, p = seen_world(2)
    seen = {}

    def spy(a, b, weights, noise):
        seen.update(a=a, b=b, noise=noise)
        return align(a, b, weights, noise)

    align = matched_pose.align
    monkeypatch.setattr(matched_pose, "align", spy)
    pose_from_matches(p, MatchingConfig(angle_noise=0.5), K)
    # Of a pinhole 100 degrees wide with square pixels: a cell on the plane z = 1 has sides 4 / f, seen at cos^3.
    step = 4 / (48 / torch.tan(torch.deg2rad(torch.tensor(50.0))))
    axes, centres = (torch.from_numpy(x).float() for x in (TURNS[:, :, 2], CENTRES))
    angles = []
    for points in (seen["a"], seen["b"]):
        camera = torch.cdist(points.origins, centres).argmin(dim=1)
        angles.append(0.5 * step * (points.rays * axes[camera]).sum(-1) ** 1.5)
    noise = seen["noise"].angle
    assert float(noise.max() / noise.min()) > 1.5
    error = (noise / torch.maximum(*angles)).log().abs()
    assert float(error.median()) < 0.03
    assert float(error.quantile(0.99)) < 0.15  # one-sided steps at a photograph's border


def test_the_model_gives_one_matched_pose_per_vehicle():
    matching = {"dim": 6, "hidden_dim": 8, "min_support": 1e-3}
    model = small_model(panorama=FUSED, pred_head={"matching": matching})
    model.matching_head.log_temperature.data.fill_(4.0)  # random descriptors that still prefer someone
    truth = fused_batch(2)
    inputs = ViewInputs(**{k: _resized(v) for k, v in vars(truth.inputs).items()})
    with torch.no_grad():
        trained, evaluated = model.train()(inputs), model.eval()(inputs)
        (mixed,) = model.forward_mixed([inputs])
    assert trained.pose_support is None
    assert trained.descriptors.shape == (1, 8, 8, 12, 6)
    for field in ("trans", "quat_xyzw", "pose_support"):
        pose = getattr(evaluated, field)[0].unflatten(0, (2, K))
        assert torch.equal(pose, pose[:, :1].expand_as(pose))
        torch.testing.assert_close(getattr(mixed, field), getattr(evaluated, field), rtol=1e-3, atol=1e-4)
    assert float(evaluated.pose_support[0, K]) > 0
    assert float((evaluated.trans - trained.trans)[0, K:].abs().max()) > 1e-3


def _resized(x: torch.Tensor) -> torch.Tensor:
    """[1, V, 3, 64, 96] or [1, V, 64, 96, 3] to 56 x 84: whole patches of 14 pixels."""
    return x[..., :56, :84] if x.shape[2] == 3 else x[:, :, :56, :84]


def test_photographs_in_the_frames_of_their_cameras_are_refused():
    model = small_model(panorama=FUSED)
    rays = torch.rand(56, 84, 3).expand(1, 2 * K, 56, 84, 3)
    image = torch.rand(1, 2 * K, 3, 56, 84)
    for origins in (None, torch.zeros_like(rays)):
        with pytest.raises(ValueError, match="use dataset=opv2v_pinhole_fused"):
            model(ViewInputs(image=image, rays=rays, origins=origins))
    stereo = torch.zeros(rays.shape)
    stereo[:, 1] = 0.2  # all look ahead, from different places
    model(ViewInputs(image=image, rays=rays, origins=stereo))


def test_wrapped_photographs_are_refused():
    with pytest.raises(ValueError, match=r"set panorama\.wrap_around=false"):
        small_model(panorama={**FUSED, "wrap_around": True})
