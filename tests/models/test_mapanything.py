"""The assembled model: symmetry between views, independence of samples, checkpointing, refusals."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from support.small_model import PANORAMA, random_panoramas, small_model

from coop3d.geometry import quat_multiply, quat_to_matrix
from coop3d.models import GeometricInputs
from coop3d.models.mapanything import normalise_image
from coop3d.types import ViewInputs

GATED = {
    "encoder": {"mlp": "swiglu", "final_norm": False, "pass_cls_token": True},
    "info_sharing": {"dim": 24, "mlp": "swiglu", "layer_scale_init": 1.0},
}
VARIANTS = pytest.mark.parametrize(
    "sections", [{}, GATED, {"panorama": PANORAMA}], ids=["plain", "gated", "panorama"]
)


def tensors(prediction):
    found = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
    return {k: v for k, v in found.items() if v is not None}


def geometry_of(B=2, V=3, H=28, W=42, seed=0):
    g = torch.Generator().manual_seed(seed)
    return GeometricInputs(
        ray_dirs=torch.nn.functional.normalize(torch.randn(B, V, H, W, 3, generator=g), dim=-1),
        depth=torch.rand(B, V, H, W, generator=g) * 9 + 1,
        quat_xyzw=torch.nn.functional.normalize(torch.randn(B, V, 4, generator=g), dim=-1),
        trans=torch.randn(B, V, 3, generator=g),
        is_metric=torch.ones(B, V, dtype=torch.bool),
    )


@pytest.mark.parametrize("nothing", [0.0, float("nan")])
def test_what_stands_where_no_geometry_is_given_does_not_matter(nothing):
    model, images, given = small_model(), torch.randn(2, 3, 3, 28, 42), geometry_of()
    yes = torch.tensor([True, False])[:, None].expand(2, 3)

    def masked(value):
        return torch.where(yes.reshape(2, 3, *[1] * (value.ndim - 2)), value, nothing)

    filled = replace(
        given, ray_dirs=masked(given.ray_dirs), depth=masked(given.depth), quat_xyzw=masked(given.quat_xyzw),
        trans=masked(given.trans), ray_dirs_given=yes, depth_given=yes, pose_given=yes,
    )  # fmt: skip
    whole = replace(given, ray_dirs_given=yes, depth_given=yes, pose_given=yes)
    with torch.no_grad():
        expected, found = (tensors(model.predict(images, g)) for g in (whole, filled))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@VARIANTS
def test_other_views_may_come_in_any_order(sections):
    model, inputs, order = small_model(**sections), random_panoramas(B=1, V=4), [0, 3, 1, 2]
    shuffled = ViewInputs(**{k: v[:, order] for k, v in vars(inputs).items()})
    with torch.no_grad():
        before, after = tensors(model(inputs)), tensors(model(shuffled))
    for name, value in before.items():
        expected = value if name == "scale" else value[:, order]
        torch.testing.assert_close(after[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_the_reference_view_is_special():
    model, inputs = small_model(), random_panoramas(B=1, V=2)
    swapped = replace(inputs, image=inputs.image.flip(1))
    assert (model(inputs).trans.flip(1) - model(swapped).trans).abs().max() > 1e-3


@VARIANTS
def test_samples_of_a_batch_do_not_meet(sections):
    model, inputs = small_model(**sections), random_panoramas(B=3, V=2)
    alone = ViewInputs(**{k: v[1:2] for k, v in vars(inputs).items()})
    with torch.no_grad():
        batch, single = tensors(model(inputs)), tensors(model(alone))
    for name, value in single.items():
        torch.testing.assert_close(batch[name][1:2], value, rtol=1e-3, atol=1e-4, msg=name)


def test_the_door_normalises_images():
    model, inputs = small_model(), random_panoramas(B=1)
    image = (inputs.image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    assert torch.equal(normalise_image(inputs.image), image)
    assert torch.equal(model(inputs).distance, model.predict(image).distance)


def test_geometry_that_is_given_nowhere_changes_nothing():
    model, images = small_model(), torch.randn(2, 3, 3, 28, 42)
    nowhere = torch.zeros(2, 3, dtype=torch.bool)
    masked = replace(geometry_of(), ray_dirs_given=nowhere, depth_given=nowhere, pose_given=nowhere)
    before, after = tensors(model.predict(images)), tensors(model.predict(images, masked))
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_absent_geometry_runs_no_encoder():
    model = small_model()
    for name in ("ray_dirs", "depth", "cam_rot", "cam_trans", "depth_scale", "cam_trans_scale"):
        model.get_submodule(f"{name}_encoder").register_forward_hook(lambda *_: pytest.fail("an encoder ran"))
    model.predict(torch.randn(1, 2, 3, 28, 28))


def test_poses_count_only_relative_to_the_first_view():
    model, images, geometry = small_model(), torch.randn(2, 3, 3, 28, 42), geometry_of()
    turn = torch.nn.functional.normalize(torch.tensor([0.3, -0.8, 0.2, 0.4]), dim=-1)
    moved = replace(
        geometry,
        quat_xyzw=quat_multiply(turn.expand(2, 3, 4), geometry.quat_xyzw),
        trans=geometry.trans @ quat_to_matrix(turn).T + torch.tensor([3.0, -2.0, 1.0]),
    )
    before, after = model.predict(images, geometry), model.predict(images, moved)
    torch.testing.assert_close(before.trans, after.trans, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["depth", "poses"])
def test_metric_geometry_carries_scale_and_other_geometry_does_not(kind):
    model, images, geometry = small_model(), torch.randn(2, 3, 3, 28, 42), geometry_of()
    if kind == "depth":
        near = replace(geometry, quat_xyzw=None, trans=None)
        far = replace(near, depth=7 * near.depth)
    else:
        near = replace(geometry, depth=None)
        far = replace(near, trans=7 * near.trans)
    with torch.no_grad():
        metric, other = (
            [model.predict(images, replace(g, is_metric=is_metric)).trans for g in (near, far)]
            for is_metric in (geometry.is_metric, None)
        )
    assert (metric[0] - metric[1]).abs().max() > 1e-3
    torch.testing.assert_close(*other, rtol=1e-3, atol=1e-4)


def test_a_pose_without_the_first_views_is_refused():
    pose = {"camera_pose_quats": torch.rand(1, 4), "camera_pose_trans": torch.rand(1, 3)}
    with pytest.raises(ValueError, match="view 0"):
        GeometricInputs.from_views([{}, pose])


@VARIANTS
def test_checkpointing_changes_no_gradient(sections):
    inputs = random_panoramas(B=2, V=2)
    sections = {k: dict(v) for k, v in sections.items()}
    plain = small_model(**sections).double()
    for name in ("encoder", "info_sharing", "pred_head"):
        sections[name] = {**sections.get(name, {}), "gradient_checkpointing": True}
    saving = small_model(**sections).double()
    for model in (plain, saving):
        p = model(inputs._map(torch.Tensor.double))
        (p.points_ref.square().mean() + p.confidence.mean() + p.mask_logits.square().mean()).backward()
    compared = 0
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10, msg=name)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize(("H", "W"), [(30, 42), (28, 43), (0, 28)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(H, W):
    with pytest.raises(ValueError, match="multiples of the patch size 14"):
        small_model()(ViewInputs(image=torch.rand(1, 1, 3, H, W)))


def test_wrong_layouts_are_refused():
    model, inputs = small_model(), random_panoramas(B=1)
    with pytest.raises(ValueError, match=r"expected floating \[B, V, 3, H, W\]"):
        model(replace(inputs, image=inputs.image[0]))
    with pytest.raises(ValueError, match="expected floating"):
        model(replace(inputs, image=(255 * inputs.image).byte()))
    with pytest.raises(ValueError, match="rays is"):
        model(replace(inputs, rays=inputs.rays[:, :, :14]))


def test_odd_patch_grids_and_one_view_work():
    p = small_model()(ViewInputs(image=torch.rand(1, 1, 3, 14, 42)))
    assert p.distance.shape == (1, 1, 14, 42)
    assert p.scale.shape == (1,)


def test_geometry_stays_float32_under_autocast():
    model, inputs = small_model(panorama=PANORAMA), random_panoramas(B=1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(inputs)
    assert all(x.dtype == torch.float32 for x in tensors(low).values())
    with torch.no_grad():
        full = model(inputs)
    # bfloat16 has 8 bits; wrong wiring under autocast would be off by 100 %
    assert (low.distance.log() - full.distance.log()).abs().median() < 0.1


def test_inference_draws_no_random_numbers():
    model, inputs = small_model(panorama=PANORAMA), random_panoramas(B=1)
    state = torch.get_rng_state()
    model(inputs)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
@VARIANTS
def test_gpu_equals_cpu(sections):
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        model, inputs = small_model(**sections), random_panoramas()
        with torch.no_grad():
            cpu, gpu = tensors(model(inputs)), tensors(model.cuda()(inputs.to("cuda")))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    for name, value in cpu.items():
        torch.testing.assert_close(gpu[name].cpu(), value, rtol=1e-3, atol=1e-3, msg=name)  # random weights


@pytest.mark.gpu
def test_mixed_precision_training_step_on_a_gpu():
    model, inputs = small_model(panorama=PANORAMA).cuda(), random_panoramas().to("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        p = model(inputs)
    (p.points_ref.square().mean() + p.confidence.mean() + p.mask_logits.square().mean()).backward()
    assert all(x.dtype == torch.float32 for x in tensors(p).values())
    gradients = [q.grad for q in model.parameters() if q.grad is not None]
    assert len(gradients) > 50
    assert all(torch.isfinite(g).all() for g in gradients)
