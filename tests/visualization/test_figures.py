"""Pictures: sizes, colours that carry meaning, atomic files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.analytic_panoramas import POSES, batch, panorama, prediction

from coop3d.visualization import RANGE_SCALE, contact_sheet, panorama_figure, prediction_figure, save_png
from coop3d.visualization.colour import turbo_palette
from coop3d.visualization.figures import (
    MASK_NO,
    MASK_UNKNOWN,
    MASK_YES,
    caption,
    colour_bar,
    mask_comparison_image,
    mask_image,
    range_image,
    with_bar,
)


def test_range_picture_and_bar_use_the_same_colours():
    image = range_image(np.array([[1.0, 120.0, np.nan]], np.float32))
    palette = turbo_palette()
    np.testing.assert_array_equal(image[0], [palette[0], palette[254], [0, 0, 0]])
    bar = colour_bar(252, RANGE_SCALE)
    np.testing.assert_array_equal(bar[243, 10], palette[0])  # small at the bottom
    np.testing.assert_array_equal(bar[8, 10], palette[254])


def test_captions_and_bars_grow_as_asked():
    """Letters of a figure that is shown smaller: 1.8 times as high, and nothing else moves."""
    picture = np.zeros((150, 600, 3), np.uint8)
    heights = {}
    for magnify in (1.0, 1.8):
        strip = caption(picture, "HHH", magnify)[: -len(picture)]
        ink = np.flatnonzero((strip < 100).all(axis=-1).any(axis=1))
        heights[magnify] = np.ptp(ink) + 1
        bar = with_bar(picture, RANGE_SCALE, magnify)[:, 600:]
        assert bar.shape == (150, round(86 * magnify), 3)
        assert (bar[len(bar) // 2, round(9 * magnify)] != bar[0, 0]).any()
    assert abs(heights[1.8] / heights[1.0] - 1.8) < 0.2


def test_a_caption_too_long_becomes_smaller_instead_of_being_cut():
    strip = caption(np.full((1, 300, 3), 255, np.uint8), "a long name " * 5 + "END")[:-1]
    ink = np.flatnonzero((strip < 200).all(axis=-1).any(axis=0))
    assert 250 < ink.max() < 300 - 1


@pytest.mark.skipif(cv2.__version__ < "5", reason="OpenCV 4 draws ASCII only")
def test_names_keep_their_script():
    picture = np.zeros((1, 300, 3), np.uint8)
    assert not np.array_equal(caption(picture, "路口"), caption(picture, "??"))


@pytest.mark.parametrize("width", [512, 1008])
def test_letters_of_a_wide_figure_can_be_read_at_the_width_of_a_page(width):
    """Shown 880 pixels wide, as a README does, capitals are at least 7 pixels high."""
    sample = batch(width=width)
    figure = prediction_figure(sample.inputs, sample.targets, prediction(sample), sample.keys)
    assert figure.shape[1] > 880
    strip = figure[: round(24 * 2 * width / 720), :width]
    ink = np.flatnonzero((strip < 100).all(axis=-1)[:, :20].any(axis=1))  # the P of Photographs
    assert np.ptp(ink) * 880 / figure.shape[1] >= 7


def test_masks_tell_three_states_apart():
    image = mask_image(np.array([[True, False, True]]), known=np.array([[True, True, False]]))
    assert [tuple(p) for p in image[0]] == [MASK_YES, MASK_NO, MASK_UNKNOWN]


def test_mask_comparison_tells_missed_from_invented():
    predicted, true = (
        np.array([[True, False, False, True, True]]),
        np.array([[True, False, True, False, True]]),
    )
    image = mask_comparison_image(predicted, true, np.array([[True, True, True, True, False]]))
    assert [tuple(p) for p in image[0, :2]] == [MASK_YES, MASK_NO]
    assert image[0, 2].argmax() == 0  # missed is red
    assert image[0, 3].argmax() == 2  # invented is blue
    assert tuple(image[0, 4]) == MASK_UNKNOWN


def test_panorama_figure_shows_the_photograph_unchanged():
    p = panorama(POSES[0])
    figure = panorama_figure(p)
    assert figure.dtype == np.uint8
    assert figure.shape[1] >= 2 * p.camera.width
    np.testing.assert_array_equal(figure[24 : 24 + p.camera.height, : p.camera.width], p.rgb)


def test_panorama_without_any_range_has_a_figure():
    p = panorama(POSES[0])
    p.range_m[:] = np.nan
    assert panorama_figure(p).any()
    assert contact_sheet([p, p]).shape[0] == 4 * (63 + 24 + 8) // 2


def test_prediction_figure_has_a_block_per_vehicle():
    sample = batch()
    both = prediction_figure(sample.inputs, sample.targets, prediction(sample), sample.keys)
    alone = batch(("641",))
    one = prediction_figure(alone.inputs, alone.targets, prediction(alone))
    assert both.shape == (
        one.shape[0],
        2 * one.shape[1],
        3,
    )  # side by side, one picture of each kind in a row
    assert prediction_figure(alone.inputs, None, prediction(alone)).any()


def test_png_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "picture.png"
    save_png(path, np.zeros((4, 4, 3), np.uint8))
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 200
    save_png(path, red)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], red)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
