"""Pictures of panoramas and predictions as RGB arrays: colour, range with a metric bar, masks, cameras, error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.files import safe_name, write_bytes
from coop3d.types import FactoredPrediction, Panorama, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization.arrays import RGB, photographs, seen_pixels, to_numpy
from coop3d.visualization.colour import (
    ERROR_SCALE,
    RANGE_SCALE,
    LogScale,
    colourise,
    turbo_palette,
    vehicle_rgb,
)

BACKGROUND = (250, 250, 250)
INK = (30, 30, 30)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BAR_WIDTH = 86
_GAP = 8  # pixels between pictures of a grid
_SHOWN_WIDTH = 720  # pixels: about as wide as a README or a window on a laptop shows a figure
_EVERY_SCRIPT = int(cv2.__version__.split(".")[0]) >= 5

# A mask's three states: yes, no, and "nobody knows"; and where a predicted one is wrong.
MASK_YES, MASK_NO, MASK_UNKNOWN = (76, 175, 80), (60, 60, 70), (200, 200, 205)
MASK_MISSED, MASK_INVENTED = (229, 57, 53), (30, 136, 229)


def range_image(range_m: NDArray[np.floating], scale: LogScale = RANGE_SCALE) -> RGB:
    """[H, W] metres to [H, W, 3]; black where unknown."""
    return colourise(range_m, scale)


def mask_image(mask: NDArray[np.bool_], known: NDArray[np.bool_] | None = None) -> RGB:
    """[H, W] mask to [H, W, 3]: green = True, dark = False, light grey = not known."""
    image = np.where(mask[..., None], np.array(MASK_YES), np.array(MASK_NO))
    if known is not None:
        image = np.where(known[..., None], image, np.array(MASK_UNKNOWN))
    return image.astype(np.uint8)


def source_image(source: NDArray[np.uint8]) -> RGB:
    """[H, W] camera index to [H, W, 3], one colour per camera; black for 255 = none."""
    palette = np.zeros((256, 3), np.uint8)
    palette[:255] = [vehicle_rgb(k) for k in range(255)]
    return palette[source]


def mask_comparison_image(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]
) -> RGB:
    """[H, W] masks to [H, W, 3]: green and dark where they agree, red = missed, blue = invented, grey = unknown."""
    image = mask_image(predicted)
    image[true & ~predicted] = MASK_MISSED
    image[predicted & ~true] = MASK_INVENTED
    image[~known] = MASK_UNKNOWN
    return image


def colour_bar(height: int, scale: LogScale, magnify: float = 1.0) -> RGB:
    """[height, 86, 3] vertical turbo bar, small values at the bottom, with labelled ticks; ``magnify`` widens it."""
    m = magnify
    bar = np.full((height, round(_BAR_WIDTH * m), 3), BACKGROUND, np.uint8)
    margin = min(round(8 * m), height // 4)  # room for half a label, where there is room
    top, bottom = margin, height - margin
    ramp = turbo_palette()[np.round(np.linspace(254, 0, bottom - top)).astype(int)]
    bar[top:bottom, round(8 * m) : round(26 * m)] = ramp[:, None]
    last = height + 20.0 * m
    for tick in scale.ticks():
        y = bottom - 1 - float(scale.normalise(np.array(tick))) * (bottom - top - 1)
        if last - y < 13 * m:  # labels would overlap
            continue
        last = y
        cv2.line(bar, (round(26 * m), round(y)), (round(30 * m), round(y)), INK, 1)
        _write(bar, f"{tick:g} {scale.unit}", (round(33 * m), round(y + 4 * m)), 0.38, m)
    return bar


def _write(image: RGB, text: str, at: tuple[int, int], size: float, magnify: float) -> None:
    """A line of text into the image, smaller where it would not fit."""
    if not _EVERY_SCRIPT:
        text = text.encode("ascii", "replace").decode()
    thickness = max(1, round(magnify))
    (width, _), _ = cv2.getTextSize(text, _FONT, size * magnify, thickness)
    fitting = min(1.0, (image.shape[1] - at[0]) / max(width, 1))
    cv2.putText(image, text, at, _FONT, size * magnify * fitting, INK, thickness, cv2.LINE_AA)


def readable(width: int) -> float:
    """How many times as high letters of a figure this wide must be, to be read where a page shows it narrower."""
    return max(1.0, width / _SHOWN_WIDTH)


def with_bar(image: RGB, scale: LogScale, magnify: float | None = None) -> RGB:
    """The image with its colour bar at the right: [H, W + 86 magnify, 3]; None: `readable` by itself."""
    m = readable(image.shape[1]) if magnify is None else magnify
    return np.concatenate([image, colour_bar(image.shape[0], scale, m)], axis=1)


def caption(image: RGB, text: str, magnify: float | None = None) -> RGB:
    """The image under a line of text: [H + 24 magnify, W, 3]; None: `readable` by itself.

    OpenCV 5 has letters of every script; before, those beyond ASCII become '?'.
    """
    m = readable(image.shape[1]) if magnify is None else magnify
    strip = np.full((round(24 * m), image.shape[1], 3), BACKGROUND, np.uint8)
    _write(strip, text, (8, round(17 * m)), 0.48, m)
    return np.concatenate([strip, image], axis=0)


def grid(images: Sequence[RGB], columns: int) -> RGB:
    """Images of any sizes in rows of ``columns``, top-left aligned in cells of equal width."""
    if not images:
        raise ValueError("a grid needs at least one image")
    width = max(image.shape[1] for image in images)
    rows = []
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        height = max(image.shape[0] for image in row)
        canvas = np.full((height + _GAP, columns * (width + _GAP), 3), BACKGROUND, np.uint8)
        for k, image in enumerate(row):
            left = k * (width + _GAP)
            canvas[: image.shape[0], left : left + image.shape[1]] = image
        rows.append(canvas)
    return np.concatenate(rows, axis=0)


def panorama_figure(panorama: Panorama) -> RGB:
    """Everything one panorama carries, side by side: colour, range, source camera and each mask."""
    p, magnify = panorama, readable(2 * panorama.camera.width)
    seen = p.range_m[np.isfinite(p.range_m)]
    spread = f"{seen.min():.1f} to {seen.max():.1f} m" if len(seen) else "nowhere known"
    panels = {
        f"colour  {p.key}  ({p.kind}, {p.camera.width} x {p.camera.height})": p.rgb,
        f"range along the ray, {spread}": with_bar(range_image(p.range_m), RANGE_SCALE, magnify),
        f"source camera, {len(p.origins)} ray origins": source_image(p.source),
    }
    for name, mask, known in (
        ("covered", p.covered, None),
        ("valid range", p.valid, None),
        ("non-ambiguous (grey = not known)", p.non_ambiguous & p.mask_known, p.mask_known),
    ):
        panels[f"{name}: {100 * mask.mean():.1f} % of pixels"] = mask_image(mask, known)
    return grid([caption(panel, title, magnify) for title, panel in panels.items()], columns=2)


def contact_sheet(panoramas: Sequence[Panorama]) -> RGB:
    """Colour and range of several panoramas, one below the other."""
    rows = []
    for p in panoramas:
        magnify = readable(2 * p.camera.width)
        known = f"range known at {100 * np.isfinite(p.range_m).mean():.0f} % of pixels"
        ranges = with_bar(range_image(p.range_m), RANGE_SCALE, magnify)
        rows += [caption(p.rgb, f"{p.key}, {p.kind}", magnify), caption(ranges, known, magnify)]
    return grid(rows, columns=2)


def view_layers(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    view: int,
) -> dict[str, RGB]:
    """Titled pictures of one view of the first sample, in the order shown; those without data are left out."""
    layers = {"Photographs": photographs(inputs, view)}
    if prediction is not None:
        predicted = to_numpy(prediction.range_m[0, view])
        layers["Predicted range"] = range_image(
            np.where(seen_pixels(inputs, targets, view), predicted, np.nan)
        )
    if targets is not None:
        true = to_numpy(targets.range_m[0, view])
        layers["True range"] = range_image(true)
    if prediction is not None and targets is not None:
        error = np.where(to_numpy(targets.valid[0, view]), np.abs(predicted - true), np.nan)
        layers["Range error"] = colourise(error, ERROR_SCALE)
    if prediction is not None:
        mask = to_numpy(prediction.non_ambiguous[0, view])
        if targets is None:
            layers["Predicted mask"] = mask_image(mask)
        else:
            true_mask, known = (to_numpy(m[0, view]) for m in (targets.non_ambiguous, targets.mask_known))
            layers["Mask"] = mask_comparison_image(mask, true_mask, known)
    return layers


# Titles of `view_layers` as file names, and the bars that belong beside them.
_FILE_NAMES = {
    "Photographs": "colour", "Predicted range": "range_pred", "True range": "range_gt",
    "Range error": "range_error", "Predicted mask": "mask", "Mask": "mask",
}  # fmt: skip
_BARS = {"Predicted range": RANGE_SCALE, "True range": RANGE_SCALE, "Range error": ERROR_SCALE}


def _with_own_bar(title: str, picture: RGB, magnify: float | None = None) -> RGB:
    return with_bar(picture, _BARS[title], magnify) if title in _BARS else picture


def save_view_pictures(
    folder: Path,
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    keys: Sequence[Sequence[SampleKey]],
) -> list[Path]:
    """Write the pictures of the first sample's views.

    Files are ``{view}_{agent}_{colour|range_pred|range_gt|range_error|mask}.png``. Range and its error have a
    colour bar in metres at the right; those without data are left out.
    """
    written = []
    for view in range(inputs.shape[1]):
        for title, picture in view_layers(inputs, targets, prediction, view).items():
            name = f"{view}_{safe_name(keys[0][view].agent)}_{_FILE_NAMES[title]}.png"
            save_png(folder / name, _with_own_bar(title, picture))
            written.append(folder / name)
    return written


def remove_view_pictures(folder: Path, but: Sequence[Path]) -> None:
    """Remove what `save_view_pictures` wrote into a folder for other views; other files stay."""
    names = "|".join(sorted(set(_FILE_NAMES.values())))
    for path in set(folder.glob("*.png")) - set(but):
        if re.fullmatch(rf"\d+_.+_({names})\.png", path.name):
            path.unlink()


def prediction_figure(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    keys: Sequence[Sequence[SampleKey]] | None = None,
) -> RGB:
    """Below one another per vehicle of the first sample: photographs, predicted and true range, range error, mask.

    Vehicles stand side by side, two in a row.
    """
    columns = min(2, inputs.shape[1])
    magnify = readable(columns * inputs.shape[-1])
    vehicles: list[RGB] = []
    for view in range(inputs.shape[1]):
        titles = {
            "Photographs": f"Photographs  {f'view {view}' if keys is None else keys[0][view]}",
            "Mask": "Mask: green surface, red missed, blue invented",
        }
        panels = [
            caption(
                _with_own_bar(title, picture, magnify),
                titles.get(title, title),
                magnify,
            )
            for title, picture in view_layers(inputs, targets, prediction, view).items()
        ]
        vehicles.append(grid(panels, columns=1))
    return grid(vehicles, columns)


def save_png(path: Path, image: RGB) -> None:
    """Write [H, W, 3] RGB atomically: a reader sees the old picture or the new one, never half of one."""
    smaller = [cv2.IMWRITE_PNG_COMPRESSION, 6]  # by a third than OpenCV's default, for a second of work
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), smaller)
    assert done, "PNG encoding of a uint8 RGB image cannot fail"
    write_bytes(path, data.tobytes())
