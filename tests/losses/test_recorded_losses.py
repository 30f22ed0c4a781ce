"""Recorded loss values and gradients of the published implementation, where they are at hand.

Without recordings the same formulas are protected by slow twins (test_loss_values, test_published_formulas) and
by gradcheck (test_loss_properties).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coop3d.training.parity import (
    CRITERIA,
    EndToEndFixture,
    LossFixture,
    gradient_deviation,
    parameter_deviation,
)

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "parity"
needs_recordings = pytest.mark.skipif(
    not (RECORDINGS / "losses.json").is_file(), reason=f"no recordings of losses in {RECORDINGS}"
)
CASES = ("mixed", "all_real", "no_metric", "empty_view", "empty_sample")


@pytest.fixture(scope="module")
def fixture() -> LossFixture:
    return LossFixture(RECORDINGS)


@needs_recordings
def test_all_cases_are_known(fixture):
    assert tuple(fixture.cases) == CASES
    assert set(fixture.record["criteria"]) == set(CRITERIA)


@needs_recordings
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_value_and_gradient_is_reproduced(fixture, case, criterion):
    compared = 0
    for kind, deviations in fixture.compare(case, criterion):
        outside = [d for d in deviations if not d.ok]
        assert not outside, f"{kind}: {outside}"
        compared += len(deviations)
    assert compared >= 1 + 28 + 46


@needs_recordings
def test_gradients_through_model_and_loss_are_reproduced():
    fixture = EndToEndFixture(RECORDINGS)
    deviations = fixture.compare(fixture.runs[0])
    assert len(deviations) > 300
    outside = [d for d in deviations if not max(d.relative_l2, d.max_error) <= 5e-5]
    assert not outside


def test_rounding_noise_is_compared_absolutely():
    tiny = torch.tensor([1e-7, 0.0])
    assert gradient_deviation("g", torch.zeros(2), tiny).relative_l2 == pytest.approx(1e-7)
    assert gradient_deviation("g", torch.zeros(2), torch.tensor([1.0, 0.0])).relative_l2 == pytest.approx(1)
    assert not gradient_deviation("g", torch.full((2,), torch.nan), tiny).ok


def test_parameter_deviation_by_hand():
    grad = torch.tensor([3.0, 4.0, 0.0, 0.0])
    exact = parameter_deviation("w", grad, [5.0, 7.0, 3.0, 4.0, 0.0])
    assert exact.relative_l2 == exact.max_error == 0
    assert parameter_deviation("w", grad, [4.0, 7.0, 3.0]).relative_l2 == pytest.approx(0.25)
    assert parameter_deviation("w", grad, [5.0, 7.0, 2.0]).max_error == pytest.approx(0.2)
    assert parameter_deviation("w", grad, [5.0, 6.0, 3.0]).max_error == pytest.approx(1 / (5 * 2))
