"""What every HTML page shares: templates, escaping, typed arrays in base64, embedded pictures.

Pages are one file that needs nothing else: a Content-Security-Policy in the template forbids every request, so
they behave the same from ``file://``, over SSH port forwarding, and on a machine without a network.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.visualization.arrays import RGB

_TYPE_NAMES = {"float32": "f4", "uint8": "u1", "uint16": "u2"}


class Markup(str):
    """Text that is HTML already; every other string is escaped when a page is filled."""


def asset(name: str) -> str:
    """Text of a file under ``assets/``."""
    return files("coop3d.visualization").joinpath("assets", name).read_text(encoding="utf-8")


def typed_array(array: NDArray) -> dict[str, Any]:
    """A typed array as Plotly writes it: ``{dtype, bdata, shape}``, little-endian base64."""
    name = _TYPE_NAMES[array.dtype.name]
    data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    return {"dtype": name, "bdata": base64.b64encode(data).decode(), "shape": list(array.shape)}


def embed_json(value: Any) -> Markup:
    """JSON that is safe inside a <script> element whatever strings it carries; refuses NaN."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def data_uri(image: RGB, lossless: bool) -> Markup:
    """[H, W, 3] as a data: URI, PNG for flat colours or WebP for photographs."""
    kind, options = ("png", []) if lossless else ("webp", [cv2.IMWRITE_WEBP_QUALITY, 75])
    done, data = cv2.imencode(f".{kind}", np.ascontiguousarray(image[..., ::-1]), options)
    assert done, "encoding a uint8 RGB image cannot fail"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}")


def fill(template: str, values: Mapping[str, str]) -> Markup:
    """Replace each ``{{name}}`` once; values are escaped unless they are `Markup` and never filled again."""

    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text if isinstance(text, Markup) else html.escape(text)

    return Markup(re.sub(r"\{\{(\w+)\}\}", value, template))


def page(
    title: str,
    note: str,
    body: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    buttons: str = "",
    under_note: str = "",
    generator: str = "coop3d",
) -> Markup:
    """A whole page: ``assets/frame.html`` with the head and the theme switch that all pages share.

    Args:
        title, note: text.
        body: HTML, data included.
        styles, scripts: names of assets, in order; ``common.css`` comes first by itself.
        buttons: HTML beside the theme switch.
        under_note: HTML below the note.
        generator: what made the page, in its head.
    """
    values = {
        "title": title,
        "generator": generator,
        "note": note,
        "body": Markup(body),
        "style": Markup("".join(asset(name) for name in ("common.css", *styles))),
        "script": Markup("\n".join(asset(name) for name in scripts)),
        "buttons": Markup(buttons),
        "under_note": Markup(under_note),
    }
    return fill(asset("frame.html"), values)


def escape(text: object) -> Markup:
    """Any value as HTML text."""
    return Markup(html.escape(str(text)))


def format_number(value: object) -> str:
    """Numbers with four significant digits, NaN as a dash, everything else as text."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return str(value)
