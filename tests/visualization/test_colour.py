"""Colour scales against hand values; palettes against the colours they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from coop3d.visualization.colour import UNKNOWN_RGB, LogScale, colourise, quantise_colours, turbo_palette


def test_log_scale_is_logarithmic_clamped_and_keeps_unknown():
    scale = LogScale(1.0, 100.0)
    values = np.array([0.1, 1, 10, 100, 1e6, np.nan, np.inf], np.float32)
    np.testing.assert_allclose(scale.normalise(values), [0, 0, 0.5, 1, 1, np.nan, np.nan], atol=1e-6)
    assert scale.indices(values).tolist() == [0, 0, 127, 254, 254, 255, 255]


def test_ticks_are_1_2_5_numbers_within_the_scale():
    assert LogScale(1.0, 120.0).ticks() == [1, 2, 5, 10, 20, 50, 100]
    np.testing.assert_allclose(LogScale(0.05, 10.0).ticks(), [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (1, 1), (1, np.inf), (-1, 2)])
def test_a_scale_that_has_no_logarithm_is_refused(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        LogScale(low, high)


def test_turbo_runs_from_dark_blue_to_dark_red_and_ends_in_grey():
    palette = turbo_palette()
    assert palette.shape == (256, 3)
    np.testing.assert_allclose(palette[[0, 254]], [[48, 18, 59], [122, 4, 3]], atol=2)  # published end points
    assert tuple(palette[255]) == UNKNOWN_RGB


def test_unknown_is_black_in_pictures():
    image = colourise(np.array([[1.0, np.nan]], np.float32), LogScale(1.0, 10.0))
    assert image[0, 1].tolist() == [0, 0, 0]
    assert image[0, 0].any()


def test_few_colours_survive_the_palette_almost_exactly():
    rgb = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    index, palette = quantise_colours(rgb)
    assert np.abs(palette[index].astype(int) - rgb).max() <= 3  # six bits per channel: steps of 4


def test_many_colours_share_256_entries_with_a_small_error():
    ramp = np.linspace(0, 255, 40_000)
    rgb = np.stack([ramp, 255 - ramp, np.full_like(ramp, 80)], axis=-1).astype(np.uint8)
    index, palette = quantise_colours(rgb)
    assert np.abs(palette[index].astype(int) - rgb).mean() < 2
    assert np.array_equal(index, quantise_colours(rgb)[0])


def test_no_points_have_an_empty_palette():
    index, palette = quantise_colours(np.zeros((0, 3), np.uint8))
    assert len(index) == 0
    assert palette.shape == (256, 3)
