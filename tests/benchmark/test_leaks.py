"""A predictor sees what it declared and nothing else: no prediction bit depends on the truth."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.analytic_panoramas import batch
from support.small_model import PANORAMA, small_model

from coop3d.benchmark import Blind, InputSet
from coop3d.benchmark.baselines import BASELINES
from coop3d.benchmark.entrants import ask
from coop3d.evaluation import TrainingStatistics
from coop3d.types import CoopBatch, FactoredPrediction, ViewInputs


def corrupted(truth: CoopBatch) -> CoopBatch:
    """Every target replaced by something else of its type; keys, too."""
    g = torch.Generator().manual_seed(0)

    def other(x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bool:
            return ~x
        if x.is_floating_point():
            return torch.randn(x.shape, generator=g, dtype=x.dtype)
        return x.flip(0) + 1

    targets = replace(
        truth.targets, **{f.name: other(getattr(truth.targets, f.name)) for f in fields(truth.targets)}
    )
    elsewhere = np.random.default_rng(0).normal(size=(len(truth.keys), 4, 4))
    return replace(truth, targets=targets, keys=tuple(k[::-1] for k in truth.keys), T_world_ref=elsewhere)


def tensors(prediction: FactoredPrediction) -> dict[str, torch.Tensor]:
    return {k: v for k, v in vars(prediction).items() if v is not None}


def blind_entrants() -> list[Blind]:
    statistics = TrainingStatistics()
    statistics.update(batch(("641", "650"), width=112).targets)
    baselines = [baseline.entrant(statistics) for baseline in BASELINES.values()]
    model = Blind("model", "checkpoint", small_model(panorama=PANORAMA), InputSet.images_rays_rig)
    return [model, *(b for b in baselines if isinstance(b, Blind))]


@pytest.mark.parametrize("entrant", blind_entrants(), ids=lambda e: e.name)
@torch.inference_mode()
def test_corrupting_every_target_changes_no_bit_of_a_prediction(entrant):
    truth = batch(("641", "650"), width=112)
    before, after = (tensors(ask(entrant, b).prediction) for b in (truth, corrupted(truth)))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name", ["gnss", "truth"])
def test_oracles_do_change_so_the_test_above_can_fail(name):
    truth = batch(("641", "650"), width=112)
    oracle = BASELINES[name].entrant()
    before, after = (ask(oracle, b).prediction for b in (truth, corrupted(truth)))
    assert not torch.equal(before.distance, after.distance)


class Spy:
    """Remembers what it was given."""

    def __call__(self, inputs: ViewInputs) -> None:
        self.seen = inputs


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ("images", {"image"}),
        ("images+rays", {"image", "rays"}),
        ("images+rays+rig", {"image", "rays", "origins"}),
    ],
)
def test_undeclared_inputs_never_reach_a_predictor(inputs, given):
    spy = Spy()
    ask(Blind("spy", "checkpoint", spy, InputSet.parse(inputs)), batch(("641", "650"), width=112))
    assert {k for k, v in vars(spy.seen).items() if v is not None} == given


def test_origins_do_not_matter_where_they_are_not_declared():
    truth = batch(("641", "650"), width=112)
    moved = replace(truth, inputs=replace(truth.inputs, origins=truth.inputs.origins + 1.0))
    model = small_model(panorama=PANORAMA)
    for inputs, equal in ((InputSet.images_rays, True), (InputSet.images_rays_rig, False)):
        entrant = Blind("model", "checkpoint", model, inputs)
        with torch.inference_mode():
            a, b = (ask(entrant, x).prediction.distance for x in (truth, moved))
        assert torch.equal(a, b) is equal


def test_a_field_added_later_stays_outside():
    for member in InputSet:
        restricted = member.restrict(batch(("641",), width=112).inputs)
        assert {k for k, v in vars(restricted).items() if v is not None} == set(member.allowed)
    with pytest.raises(ValueError, match="inputs='depth' is not one of images"):
        InputSet.parse("depth")
