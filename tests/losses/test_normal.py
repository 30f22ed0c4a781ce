"""The normal term on panoramas: around the seam, never across a border of source cameras."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.analytic_panoramas import batch, prediction
from support.random_views import perfect_prediction, random_targets

from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.losses import GradientMatchingTerm, NormalTerm, Scene
from coop3d.losses.normal import rounded_angle
from coop3d.types import FactoredPrediction, ViewTargets

H, W = 4, 12
DENSE_TERMS = [NormalTerm(), GradientMatchingTerm()]


def ring(source: torch.Tensor | None = None, pinhole: bool = False) -> ViewTargets:
    """A panorama full of random, valid range."""
    camera = PinholeCamera.from_hfov(W, H, 90.0) if pinhole else EquirectangularCamera(W, H, 60.0)
    rays = torch.from_numpy(camera.rays().copy())[None, None]
    targets = random_targets(B=1, V=1, H=H, W=W, valid_fraction=1)
    source = targets.source if source is None else source.expand(1, 1, H, W).to(torch.uint8)
    return replace(targets, rays=rays, source=source)


def wobbled(targets: ViewTargets, seed: int = 3) -> FactoredPrediction:
    noise = torch.randn(targets.range_m.shape, generator=torch.Generator().manual_seed(seed)).double()
    perfect = perfect_prediction(targets)
    return replace(perfect, distance=perfect.distance * torch.exp(0.2 * noise))


def rolled(record, columns: int):
    """Every dense field turned about the vertical axis; rays too, so neighbours stay neighbours."""

    def roll(x: torch.Tensor) -> torch.Tensor:
        return torch.roll(x, columns, dims=3) if x.shape[:4] == (1, 1, H, W) else x

    return record._map(roll)


@pytest.mark.parametrize("term", DENSE_TERMS, ids=lambda t: type(t).__name__)
def test_turning_a_full_circle_changes_nothing(term):
    targets = ring()
    p = wobbled(targets)
    value = term(Scene(p, targets)).per_sample
    for columns in (1, 5):
        torch.testing.assert_close(
            term(Scene(rolled(p, columns), rolled(targets, columns))).per_sample, value
        )


@pytest.mark.parametrize("term", DENSE_TERMS, ids=lambda t: type(t).__name__)
def test_a_photograph_has_no_seam(term):
    """Its outer columns are strangers: changing how they fit together costs nothing."""
    targets = ring(pinhole=True)
    counts = term(Scene(wobbled(targets), targets)).counts[0, 0, 0].item()
    assert counts == {NormalTerm: 4 * 3 * 11, GradientMatchingTerm: 4 * 11 + 3 * 12}[type(term)]
    around = ring()
    counts = term(Scene(wobbled(around), around)).counts[0, 0, 0].item()
    assert counts == {NormalTerm: 4 * 3 * 12, GradientMatchingTerm: 4 * 12 + 3 * 12}[type(term)]


@pytest.mark.parametrize("term", DENSE_TERMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("border", ["columns", "rows"])
def test_scaling_one_camera_alone_costs_nothing(term, border):
    """Within a camera scale changes no normal and no log gradient; only a pair across the border would see it."""
    if border == "columns":
        second = (torch.arange(W) >= 7).expand(H, W)
    else:
        second = (torch.arange(H) >= 2)[:, None].expand(H, W)
    targets = ring(second.long())
    perfect = perfect_prediction(targets)
    scaled = replace(perfect, distance=torch.where(second, 1.3, 1.0) * perfect.distance)
    assert term(Scene(scaled, targets)).per_sample.item() < 1e-12
    assert (
        term(Scene(scaled, replace(targets, source=torch.zeros_like(targets.source)))).per_sample.item()
        > 1e-3
    )


def test_angles_are_rounded_off_below_three_degrees():
    degrees = torch.tensor([0.0, 1.0, 3.0, 10.0]).double()
    expected = torch.tensor([0.0, 1 / 6, 1.5, 8.5]).double()  # a^2 / 6, a - 1.5
    torch.testing.assert_close(rounded_angle(degrees.deg2rad()).rad2deg(), expected)


def test_unmeasured_pixels_are_left_out():
    targets = ring()
    spoilt = wobbled(targets)
    valid = torch.ones_like(targets.valid)
    valid[..., 1, 3] = False
    hole = replace(targets, valid=valid, range_m=torch.where(valid, targets.range_m, torch.nan))
    leaf = spoilt.distance.clone().requires_grad_()
    value = NormalTerm()(Scene(replace(spoilt, distance=leaf), hole))
    value.per_sample.sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad[..., 1, 3].item() == 0
    assert value.counts.item() == 4 * 3 * 12 - 12  # the pixel is a corner 4 times and a neighbour 8 times


def test_a_true_street_costs_nothing_and_noise_tilts_it():
    truth = batch(width=252)
    perfect = prediction(truth, noise=0.0, shift_m=0.0)
    assert NormalTerm()(Scene(perfect, truth.targets)).per_sample.item() < 1e-8
    noisy = NormalTerm()(Scene(prediction(truth, noise=0.01, shift_m=0.0), truth.targets))
    assert noisy.statistics["mean_deg"].item() > 5
    assert noisy.per_sample.item() < math.pi / 252
