"""Photographs of a vehicle fused to one set of tokens, with one pose, by the rig's known calibration."""

from __future__ import annotations

import pytest
import torch
from support.small_model import random_panoramas, small_model

from coop3d.geometry import compose_points
from coop3d.models.scenes import group_cameras, in_vehicle_frame, ungroup_cameras
from coop3d.types import ViewInputs

FUSED = {
    "known_rays_input": True,
    "compose_with": "known",
    "view_role_embedding": True,
    "cameras_per_vehicle": 2,
    "fuse_cameras": True,
}
GATED = {
    "encoder": {"mlp": "swiglu", "final_norm": False, "pass_cls_token": True},
    "info_sharing": {"dim": 24, "mlp": "swiglu", "layer_scale_init": 1.0},
}
VARIANTS = pytest.mark.parametrize("sections", [{}, GATED], ids=["plain", "class tokens"])


def reordered(inputs, order):
    return ViewInputs(**{k: v[:, order] for k, v in vars(inputs).items()})


@VARIANTS
def test_one_pose_per_vehicle_and_one_map_per_photograph(sections):
    model, inputs = small_model(panorama=FUSED, **sections), random_panoramas(B=2, V=6)
    p = model(inputs)
    assert p.distance.shape == (2, 6, 42, 84)
    assert torch.equal(p.trans[:, ::2], p.trans[:, 1::2])
    assert torch.equal(p.quat_xyzw[:, ::2], p.quat_xyzw[:, 1::2])
    assert (p.trans[:, 0] - p.trans[:, 2]).abs().max() > 1e-3
    assert model.info_sharing.rig_camera is None  # rays tell cameras apart
    (p.points_ref.mean() + p.confidence.mean() + p.mask_logits.mean() + p.predicted_rays.mean()).backward()
    assert all(q.grad is not None for n, q in model.named_parameters() if n.startswith("info_sharing."))


@VARIANTS
def test_cameras_of_a_vehicle_and_other_vehicles_may_come_in_any_order(sections):
    """A set of tokens has no order: only the rays say where a photograph looks."""
    model, inputs = small_model(panorama=FUSED, **sections), random_panoramas(B=1, V=6)
    order = [1, 0, 4, 5, 3, 2]
    with torch.no_grad():
        before, after = model(inputs), model(reordered(inputs, order))
    for name in ("distance", "trans", "quat_xyzw"):
        expected = getattr(before, name)[:, order]
        torch.testing.assert_close(getattr(after, name), expected, rtol=1e-3, atol=1e-4)


def test_attention_inside_a_vehicle_sees_all_of_its_photographs():
    inputs = random_panoramas(B=1, V=4)
    other = inputs.image.clone()
    other[:, 1] = 1 - other[:, 1]
    changes = {}
    for fuse in (False, True):
        model = small_model(panorama={**FUSED, "fuse_cameras": fuse})
        for block in model.info_sharing.self_attention_blocks[::2]:  # across vehicles: silenced
            for layer in (block.attn.proj, block.mlp.fc2):
                torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            a, b = model(inputs), model(ViewInputs(**{**vars(inputs), "image": other}))
        changes[fuse] = (a.distance - b.distance).abs().amax((0, 2, 3))
    assert changes[False].gt(1e-4).tolist() == [False, True, False, False]
    assert changes[True].gt(1e-4).tolist() == [True, True, False, False]


def test_mixed_numbers_of_vehicles():
    model = small_model(panorama=FUSED).double()
    scenes = [random_panoramas(B=1, V=v, seed=v)._map(torch.Tensor.double) for v in (2, 6)]
    with torch.no_grad():
        for found, scene in zip(model.forward_mixed(scenes), scenes, strict=True):
            torch.testing.assert_close(found.points_ref, model(scene).points_ref, rtol=1e-7, atol=1e-9)


def test_the_frame_of_the_vehicle():
    """A point is the same, whether composed by the camera's pose or in the vehicle's frame by the vehicle's."""
    inputs = random_panoramas(B=1, V=2)
    T = torch.eye(4).repeat(2, 1, 1)
    T[1, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # forward (z) looks right (x)
    T[1, :3, 3] = torch.tensor([2.0, -1.0, 0.5])
    moved = in_vehicle_frame(inputs, T)
    forward = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(
        in_vehicle_frame(ViewInputs(image=inputs.image, rays=forward.expand(1, 2, 42, 84, 3)), T).rays[
            0, 1, 0, 0
        ],
        torch.tensor([1.0, 0.0, 0.0]),
    )
    distance = torch.rand(1, 2, 42, 84)
    identity = torch.tensor([0.0, 0, 0, 1]).expand(1, 2, 4), torch.zeros(1, 2, 3), torch.ones(1)
    in_vehicle = compose_points(moved.rays, distance, *identity, moved.origins)
    in_view = compose_points(inputs.rays, distance, *identity, inputs.origins)
    expected = torch.einsum("vij,bvhwj->bvhwi", T[:, :3, :3], in_view) + T[:, None, None, :3, 3]
    torch.testing.assert_close(in_vehicle, expected)
    with pytest.raises(ValueError, match="nothing to rotate"):
        in_vehicle_frame(ViewInputs(image=inputs.image), T)


def test_grouping_by_hand():
    tokens = torch.arange(2 * 4 * 3).reshape(2, 4, 3, 1)
    grouped = group_cameras(tokens, 2)
    assert grouped[0, :, :, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert torch.equal(ungroup_cameras(grouped, 2), tokens)


def test_options_that_do_not_fit_together_are_refused():
    for change in ({"known_rays_input": False, "compose_with": "predicted"}, {"cameras_per_vehicle": 1}):
        with pytest.raises(ValueError, match="fuse_cameras needs known_rays_input"):
            small_model(panorama={**FUSED, **change})
