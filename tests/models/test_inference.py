"""``model.infer``: every layout of pictures means the same, and memory modes change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.small_model import PANORAMA, small_model

from coop3d.geometry import EquirectangularCamera
from coop3d.models import MapAnything, compile_blocks
from coop3d.models.inference import prepare_inputs
from coop3d.models.memory import LiveBytes
from coop3d.types import Panorama, SampleKey, ViewInputs

H, W, V = 42, 84, 3
CAMERA = EquirectangularCamera(W, H)
PIXELS = np.random.default_rng(0).integers(0, 256, (V, H, W, 3), dtype=np.uint8)


def panorama(rgb):
    everywhere = np.ones((H, W), bool)
    return Panorama(
        key=SampleKey("s", "a", "f"), camera=CAMERA, kind="rig", rgb=rgb,
        range_m=np.full((H, W), np.nan, np.float32), source=(np.arange(W) % 2).astype(np.uint8)[None].repeat(H, 0),
        origins=np.array([[1, 0, 0], [0, 0, 2]], np.float32), covered=everywhere, valid=~everywhere,
        non_ambiguous=~everywhere, mask_known=~everywhere, T_world_pano=np.eye(4),
    )  # fmt: skip


def reference():
    return torch.from_numpy(PIXELS).permute(0, 3, 1, 2)[None].float() / 255


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        list(PIXELS),
        [torch.from_numpy(p).permute(2, 0, 1) for p in PIXELS],
        PIXELS.astype(np.float64) / 255,
        reference(),
        reference()[0].movedim(1, -1)[None],
    ],
    ids=["uint8", "list", "tensors", "floats", "batch", "channels last"],
)
def test_every_layout_is_the_same_image(images):
    inputs = prepare_inputs(images)
    torch.testing.assert_close(inputs.image, reference(), rtol=0, atol=1e-7)
    assert inputs.rays is None


def test_rays_may_be_a_camera_one_map_or_one_per_view():
    rays = CAMERA.rays()
    for given in (
        CAMERA,
        [CAMERA] * V,
        rays,
        [rays] * V,
        np.stack([rays] * V),
        torch.from_numpy(rays.copy()).expand(1, V, H, W, 3),
    ):
        inputs = prepare_inputs(PIXELS, given, [np.zeros((H, W, 3))] * V)
        assert inputs.rays.shape == inputs.origins.shape == (1, V, H, W, 3)
        torch.testing.assert_close(inputs.rays[0, 1], torch.from_numpy(rays.copy()).float())


def test_panoramas_bring_their_calibration():
    model = small_model(panorama=PANORAMA)
    panoramas = [panorama(rgb) for rgb in PIXELS]
    p = model.infer(panoramas)
    q = model.infer(PIXELS, CAMERA, panoramas[0].origin_map())
    torch.testing.assert_close(p.points_ref, q.points_ref, rtol=1e-3, atol=1e-3)  # other strides
    assert p.origins[0, 0, 0, 0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="bring their own rays"):
        model.infer(panoramas, CAMERA)


def test_the_result_is_the_models_own_and_has_no_graph():
    model = small_model(panorama=PANORAMA).train()
    p = model.infer(PIXELS, CAMERA)
    assert model.training
    assert not p.points_ref.requires_grad
    expected = model(prepare_inputs(PIXELS, CAMERA))
    assert torch.equal(p.points_ref, expected.points_ref)
    expected.points_ref.mean().backward()  # what inference cached does not stand in the way
    assert p.range_m.shape == p.confidence.shape == p.non_ambiguous.shape == (1, V, H, W)
    assert p.T_ref_view.shape == (1, V, 4, 4)


@pytest.mark.parametrize(
    "sections",
    [
        {"panorama": PANORAMA},
        {"encoder": {"pass_cls_token": True, "mlp": "swiglu"}, "info_sharing": {"dim": 24}},
    ],
    ids=["panorama", "gated"],
)
@pytest.mark.parametrize("views_at_once", [1, 2])
def test_some_views_at_a_time_are_the_same(sections, views_at_once):
    model = small_model(**sections)
    whole, parts = model.infer(PIXELS, CAMERA), model.infer(PIXELS, CAMERA, views_at_once=views_at_once)
    for name in ("rays", "distance", "trans", "scale", "confidence", "mask_logits"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-3, atol=1e-4)


def test_views_at_a_time_need_less_memory():
    model = small_model(panorama=PANORAMA, pred_head={"feature_dim": 32})
    many = np.concatenate([PIXELS, PIXELS])
    peaks = []
    for views_at_once in (None, 1):
        with LiveBytes() as counter:
            model.infer(many, CAMERA, views_at_once=views_at_once)
        peaks.append(counter.peak)
    assert peaks[1] < 0.6 * peaks[0]


def test_compiled_blocks_keep_names_and_numbers():
    model = small_model(panorama=PANORAMA)
    names, before = list(model.state_dict()), model.infer(PIXELS, CAMERA)
    compile_blocks(model, backend="eager")  # dynamo's part; the default backend needs a C++ compiler
    compiled = [model.encoder.model.blocks[0]._compiled_call_impl]
    after = model.infer(PIXELS, CAMERA, compiled=True)  # already compiled: as it is
    assert compiled == [model.encoder.model.blocks[0]._compiled_call_impl]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(after.points_ref, before.points_ref, rtol=1e-3, atol=1e-3)


def test_low_precision_is_asked_for_on_a_cpu():
    model = small_model(panorama=PANORAMA)
    full, low = model.infer(PIXELS, CAMERA), model.infer(PIXELS, CAMERA, precision="bf16")
    assert low.distance.dtype == torch.float32
    assert 0 < (low.distance.log() - full.distance.log()).abs().median() < 0.1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there is no image"),
        (PIXELS[0], r"images are \(42, 84, 3\), expected"),
        (PIXELS[..., :2], "expected"),
        ([PIXELS[0], PIXELS[1, :28]], "different shapes"),
        (PIXELS.astype(np.float32), r"lie in \[0, 255\]"),
        (PIXELS.astype(np.int32), "torch.int32, expected uint8"),
        (np.full((1, H, W, 3), np.nan), "lie in"),
    ],
)
def test_other_pictures_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        prepare_inputs(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16', expected one of auto, fp32, bf16"),
        ({"views_at_once": 0}, "views_at_once is 0, expected at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_model().infer(PIXELS, **options)


def test_wrong_or_missing_rays_are_named():
    with pytest.raises(ValueError, match=r"rays is \(42, 83, 3\), expected \(1, 3, 42, 84, 3\)"):
        prepare_inputs(PIXELS, CAMERA.rays()[:, :83])
    with pytest.raises(ValueError, match=r"inputs\.rays is None"):
        small_model(panorama=PANORAMA).infer(PIXELS)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"compiled": True}, {"views_at_once": 1}])
def test_on_a_gpu(options):
    model = small_model(panorama=PANORAMA)
    expected = model.infer(PIXELS, CAMERA)
    p = model.cuda().infer(PIXELS, CAMERA, precision="fp32", **options)
    assert p.points_ref.is_cuda
    torch.testing.assert_close(p.distance.cpu(), expected.distance, rtol=1e-2, atol=1e-2)


def test_a_model_from_a_folder_infers(tmp_path):
    small_model(panorama=PANORAMA).save_pretrained(tmp_path)
    p = MapAnything.from_pretrained(tmp_path).infer(PIXELS, CAMERA)
    assert torch.isfinite(p.points_ref).all()
    assert isinstance(prepare_inputs(PIXELS), ViewInputs)
