"""The page of one panorama: its layers above one another, zoomed together; hovering says what a pixel knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.files import write_text
from coop3d.geometry import PinholeCamera
from coop3d.types import Panorama
from coop3d.visualization.arrays import RGB
from coop3d.visualization.colour import RANGE_SCALE, turbo_palette
from coop3d.visualization.figures import mask_image, range_image, source_image
from coop3d.visualization.pages import asset, data_uri, embed_json, fill, page, typed_array
from coop3d.visualization.payloads import scale_payload

_UNKNOWN_CM = 65535
_FLAGS = ("covered", "valid", "non_ambiguous", "mask_known")  # bits 0..3, as in the cache


def write_panorama_html(path: Path, panorama: Panorama, note: str = "") -> Path:
    """Write the zoomable page of one panorama: colour, range, source camera, masks; no network, no other file.

    Args:
        path: of the HTML file; replaced atomically.
        panorama: any kind; its camera class says azimuth and elevation of each column and row.
        note: one line under the title.

    Returns:
        ``path``.

    Raises:
        ValueError: for a single photograph (`PinholeCamera`), where a column has no one azimuth.
    """
    if isinstance(panorama.camera, PinholeCamera):
        raise ValueError(f"{panorama.key} is a pinhole photograph; this page shows panoramas only")
    body = fill(asset("panorama.html"), {"data": embed_json(panorama_payload(panorama))})
    facts = '<p class="quiet" id="facts"></p>'
    scripts = ("common.js", "panorama.js")
    html = page(str(panorama.key), note, body, ("panorama.css",), scripts, under_note=facts)
    write_text(Path(path), html)
    return Path(path)


def panorama_payload(panorama: Panorama) -> dict[str, Any]:
    """Pictures as data URIs, and per pixel range in centimetres, camera and flags (see ``assets/panorama.js``)."""
    rays = panorama.camera.rays()
    azimuth = np.degrees(np.arctan2(rays[0, :, 0], rays[0, :, 2]))
    elevation = np.degrees(np.arcsin(-rays[:, 0, 1]))
    flags = sum(getattr(panorama, name).astype(np.uint8) << bit for bit, name in enumerate(_FLAGS))
    return {
        "width": panorama.camera.width,
        "height": panorama.camera.height,
        "layers": [
            {"title": title, "src": data_uri(image, lossless=True)}
            for title, image in _layers(panorama).items()
        ],
        "azimuth": typed_array(azimuth.astype(np.float32)),
        "elevation": typed_array(elevation.astype(np.float32)),
        "range": typed_array(_centimetres(panorama.range_m)),
        "unknownRange": _UNKNOWN_CM,
        "source": typed_array(panorama.source),
        "flags": typed_array(np.asarray(flags, np.uint8)),
        "flagNames": [name.replace("_", "-") for name in _FLAGS],
        "turbo": typed_array(turbo_palette()),
        "ticks": scale_payload(RANGE_SCALE)["ticks"],
        "facts": _facts(panorama),
        "agent": panorama.key.agent,
    }


def _layers(panorama: Panorama) -> Mapping[str, RGB]:
    p = panorama
    return {
        "Colour": p.rgb,
        "Range along the ray": range_image(p.range_m),
        "Source camera": source_image(p.source),
        "Covered by a photograph": mask_image(p.covered),
        "Valid range": mask_image(p.valid),
        "Non-ambiguous (grey: not known)": mask_image(p.non_ambiguous, p.mask_known),
    }


def _centimetres(range_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """[H, W] metres to centimetres, at most 655.34 m; 65535 = unknown."""
    known = np.isfinite(range_m)
    centimetres = np.clip(np.round(np.where(known, range_m, 0) * 100), 0, _UNKNOWN_CM - 1)
    return np.where(known, centimetres, _UNKNOWN_CM).astype(np.uint16)


def _facts(panorama: Panorama) -> str:
    p = panorama
    shares = ", ".join(f"{name.replace('_', '-')} {100 * getattr(p, name).mean():.1f} %" for name in _FLAGS)
    known = p.range_m[np.isfinite(p.range_m)]
    spread = f"range {known.min():.1f} to {known.max():.1f} m" if len(known) else "range nowhere known"
    return f"{p.kind}, {p.camera.width} x {p.camera.height}, {len(p.origins)} cameras; {shares}; {spread}"
