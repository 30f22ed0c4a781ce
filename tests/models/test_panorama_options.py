"""What panoramas add: wrapping around, known rays as input and for composing, the learned view role."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.small_model import PANORAMA, random_panoramas, small_model, small_values

from coop3d.geometry import compose_points
from coop3d.models import MapAnything, MapAnythingConfig, from_mapping

DENSE = ("rays", "distance", "confidence", "mask_logits", "origins", "predicted_rays")


def rolled(inputs, patches):
    return replace(
        inputs,
        image=inputs.image.roll(14 * patches, -1),
        rays=inputs.rays.roll(14 * patches, -2),
        origins=inputs.origins.roll(14 * patches, -2),
    )


def roll_error(prediction, turned, patches):
    errors = {}
    for name in (*DENSE, "trans", "quat_xyzw", "scale"):
        before, after = getattr(prediction, name), getattr(turned, name)
        expected = before.roll(14 * patches, 3) if name in DENSE else before
        errors[name] = float(((after - expected).abs() / (1 + expected.abs())).max())
    return errors


@pytest.mark.parametrize("patches", [1, 2, 5])
@pytest.mark.parametrize(("h", "w"), [(3, 6), (2, 5)])
def test_rolling_a_panorama_rolls_its_prediction(patches, h, w):
    model, inputs = small_model(panorama=PANORAMA).double(), random_panoramas(h=h, w=w)
    inputs = inputs._map(torch.Tensor.double)
    with torch.no_grad():
        errors = roll_error(model(inputs), model(rolled(inputs, patches)), patches)
    # The rays come from float32 (1e-7); everything after is float64.
    assert max(errors.values()) < 1e-5, errors


def test_rolling_in_float32():
    model, inputs = small_model(panorama=PANORAMA), random_panoramas()
    with torch.no_grad():
        errors = roll_error(model(inputs), model(rolled(inputs, 1)), 1)
    assert max(errors.values()) < 1e-3, errors  # rounding, grown by random weights and exp


def test_without_wrapping_the_seam_shows():
    options = {**PANORAMA, "wrap_around": False}
    model, inputs = small_model(panorama=options), random_panoramas()
    with torch.no_grad():
        errors = roll_error(model(inputs), model(rolled(inputs, 1)), 1)
    assert errors["distance"] > 1e-2
    assert errors["trans"] > 1e-2


def test_known_rays_compose_the_points_and_the_predicted_ones_stay_available():
    inputs = random_panoramas()
    p = small_model(panorama=PANORAMA)(inputs)
    assert p.rays is inputs.rays
    assert p.predicted_rays is not None
    torch.testing.assert_close(p.predicted_rays.norm(dim=-1), torch.ones(2, 3, 42, 84))
    expected = compose_points(inputs.rays, p.distance, p.quat_xyzw, p.trans, p.scale, inputs.origins)
    assert torch.equal(p.points_ref, expected)
    p.predicted_rays.square()[..., 0].mean().backward()  # a ray loss still reaches the network


def test_predicted_rays_are_the_published_composition():
    inputs = random_panoramas()
    p = small_model()(inputs)
    assert p.predicted_rays is None
    assert p.origins is inputs.origins
    torch.testing.assert_close(p.rays.norm(dim=-1), torch.ones(2, 3, 42, 84))


def test_origins_of_none_mean_zero():
    model, inputs = small_model(panorama=PANORAMA), random_panoramas(B=1)
    none = model(replace(inputs, origins=None))
    zero = model(replace(inputs, origins=torch.zeros_like(inputs.rays)))
    assert torch.equal(none.distance, zero.distance)
    assert torch.equal(none.points_ref, zero.points_ref)
    assert not torch.equal(none.distance, model(inputs).distance)


def test_missing_rays_are_named():
    inputs = replace(random_panoramas(), rays=None)
    with pytest.raises(ValueError, match="rays is None"):
        small_model(panorama={"compose_with": "known"})(inputs)


def test_additions_start_at_zero_effect():
    values = small_values(panorama={"known_rays_input": True, "view_role_embedding": True})
    model = MapAnything(from_mapping(MapAnythingConfig, values))
    assert list(model.get_additions()) == ["ray_origins_encoder", "info_sharing.view_role"]
    inputs = random_panoramas(B=1)
    before = model(inputs)
    elsewhere = model(replace(inputs, origins=10 * inputs.origins))
    assert torch.equal(before.distance, elsewhere.distance)
    before.distance.log().square().mean().backward()
    assert model.get_parameter("ray_origins_encoder.norm_layer.weight").grad.abs().max() > 0


def test_log_limit_keeps_everything_finite():
    model = small_model(pred_head={"log_limit": 15.0})
    with torch.no_grad():
        model.get_parameter("dpt_regressor_head.conv2.2.bias").fill_(1000.0)
        model.get_parameter("scale_head.output_proj.bias").fill_(-1000.0)
        p = model(random_panoramas(B=1))
    assert p.distance.max() <= torch.tensor(15.0).exp()
    assert torch.isfinite(p.points_ref).all()
    assert torch.isfinite(p.confidence).all()
