"""The page of one cooperative sample: clouds in 3D, panoramas, numbers; one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.files import write_text
from coop3d.visualization.colour import (
    ERROR_SCALE,
    RANGE_SCALE,
    LogScale,
    vehicle_rgb,
)
from coop3d.visualization.figures import MASK_INVENTED, MASK_MISSED, MASK_NO, MASK_UNKNOWN, MASK_YES
from coop3d.visualization.pages import (
    Markup,
    asset,
    data_uri,
    embed_json,
    escape,
    fill,
    format_number,
    page,
    typed_array,
)
from coop3d.visualization.payloads import points_payload, pose_payload, scale_payload, view_payload
from coop3d.visualization.scene import PointSet, Scene, SceneView, upright

Numbers = Mapping[str, object]

_BUTTONS = """<button type="button" id="share" title="The address holds camera and controls">Copy link</button>
    <button type="button" id="keys" title="Keyboard (?)">Keys</button>
    """
_SCRIPTS = (
    "common.js",
    "gl.js",
    "cloud.js",
    "scene_lines.js",
    "scene_state.js",
    "scene_link.js",
    "scene.js",
)
_MASK = {
    "surface": MASK_YES,
    "none": MASK_NO,
    "missed": MASK_MISSED,
    "invented": MASK_INVENTED,
    "unknown": MASK_UNKNOWN,
}
_FLAT = {"Mask", "Predicted mask"}  # PNG; pictures with gradients or noise are WebP


def write_scene_html(path: Path, scene: Scene, numbers: Numbers | None = None, note: str = "") -> Path:
    """Write the interactive page of a scene.

    The page needs no network and no other file. It shows z-up axes (x right, y forward of the reference
    vehicle) and says so.

    Args:
        path: of the HTML file; replaced atomically.
        scene: from `scene_from_prediction`.
        numbers: shown as a table. A value that is itself a mapping is a column with one row per vehicle, e.g.
            ``{"AbsRel": 0.08, "translation error [m]": {"641": 0.0, "650": 0.31}}``.
        note: one line under the title, e.g. the checkpoint.

    Returns:
        ``path``.
    """
    content = {
        "data": embed_json(scene_payload(scene)),
        "mask": _mask_legend(),
        "numbers": _numbers_html(numbers or {}),
        "panoramas": Markup("".join(_panoramas_html(k, view) for k, view in enumerate(scene.views))),
    }
    body = fill(asset("scene.html"), content)
    write_text(Path(path), page(scene.title, note, body, ("scene.css",), _SCRIPTS, buttons=_BUTTONS))
    return Path(path)


def scene_payload(scene: Scene) -> dict[str, Any]:
    """Everything the 3D viewer needs, in upright axes and JSON types (see ``assets/scene.js``)."""
    confidence = _confidence_scale(scene)
    shared, photo = view_payload([scene])
    vehicles = []
    for k, view in enumerate(scene.views):
        clouds = {
            kind: None if cloud is None else _cloud_payload(cloud, next(photo), confidence)
            for kind, cloud in (("predicted", view.predicted), ("truth", view.truth), ("lidar", view.lidar))
        }
        vehicles.append(
            {
                "name": view.name,
                "colour": list(vehicle_rgb(k)),
                "poses": {
                    "predicted": pose_payload(view.T_ref_view_pred),
                    "truth": pose_payload(view.T_ref_view_true),
                },
                "cameras": upright(view.rig_cameras).round(4).tolist(),
                "imageSize": _image_size(view),
                **clouds,
            }
        )
    return {
        "vehicles": vehicles,
        "boxes": [{"name": b.name, "corners": upright(b.corners()).round(3).tolist()} for b in scene.boxes],
        **shared,
        "scales": {
            **shared["scales"],
            "error": scale_payload(ERROR_SCALE),
            "confidence": scale_payload(confidence),
        },
    }


def _cloud_payload(cloud: PointSet, photo: NDArray[np.uint8], confidence: LogScale) -> dict[str, Any]:
    """One cloud in random order, except that points which the mask keeps come first.

    So the page hides what the mask rejects, and thins a cloud evenly while it moves, by drawing fewer.
    """
    order = np.random.default_rng(0).permutation(len(cloud.points))
    order = order[np.argsort(~cloud.kept[order], kind="stable")]
    payload: dict[str, Any] = {
        **points_payload(upright(cloud.points[order])),
        "photo": typed_array(photo[order]),
        "range": typed_array(RANGE_SCALE.indices(cloud.range_m[order])),
        "kept": int(cloud.kept.sum()),
        "pixelAngle": cloud.pixel_angle_rad,
        "density": cloud.density,
    }
    if cloud.confidence is not None:
        payload["confidence"] = typed_array(confidence.indices(cloud.confidence[order]))
    if cloud.error_m is not None:
        payload["error"] = typed_array(ERROR_SCALE.indices(cloud.error_m[order]))
    if cloud.error_true_pose_m is not None:
        payload["errorTruePose"] = typed_array(ERROR_SCALE.indices(cloud.error_true_pose_m[order]))
    if cloud.pixel is not None:
        payload["pixel"] = typed_array(cloud.pixel[order].astype(np.uint16))
    return payload


def _image_size(view: SceneView) -> list[int] | None:
    """Width and height of a vehicle's pictures, which all show the same pixels."""
    return next(([image.shape[1], image.shape[0]] for image in view.images.values()), None)


def _confidence_scale(scene: Scene) -> LogScale:
    """From 1, the least confidence there is, to the 99th percentile shown."""
    values = np.concatenate([[1.0], *(c.confidence for c in scene.clouds if c.confidence is not None)])
    values = values[np.isfinite(values)]
    return LogScale(1.0, max(float(np.percentile(values, 99)), 2.0), unit="")


def _mask_legend() -> Markup:
    """What the colours of `mask_comparison_image` mean."""
    return Markup(" ".join(f"<span>{_swatch(rgb)}{escape(what)}</span>" for what, rgb in _MASK.items()))


def _swatch(rgb: tuple[int, int, int]) -> Markup:
    red, green, blue = rgb
    return Markup(f'<i class="swatch" style="background: rgb({red} {green} {blue})"></i>')


def _numbers_html(numbers: Numbers) -> Markup:
    """Two tables: single numbers, and those with one value per vehicle."""
    single = {k: v for k, v in numbers.items() if not isinstance(v, Mapping)}
    per_vehicle = {k: v for k, v in numbers.items() if isinstance(v, Mapping)}
    rows = "".join(
        f"<tr><th>{escape(k)}</th><td>{escape(format_number(v))}</td></tr>" for k, v in single.items()
    )
    text = f"<table>{rows}</table>" if rows else ""
    if per_vehicle:
        names = list(dict.fromkeys(name for column in per_vehicle.values() for name in column))
        head = "".join(f"<th>{escape(k)}</th>" for k in per_vehicle)
        body = "".join(
            f"<tr><th>{escape(name)}</th>"
            + "".join(f"<td>{escape(format_number(c.get(name, '–')))}</td>" for c in per_vehicle.values())
            + "</tr>"
            for name in names
        )
        text += f"<table><thead><tr><th>vehicle</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Markup(text or '<p class="quiet">No numbers were given for this frame.</p>')


def _panoramas_html(index: int, view: SceneView) -> Markup:
    """One vehicle's pictures, each with the ring that marks a pixel; a click enlarges one."""
    if not view.images:
        return Markup("")
    figures = "".join(
        f'<figure data-layer="{escape(title)}"><div class="picture" data-vehicle="{index}">'
        f'<img alt="{escape(f"{title}, vehicle {view.name}")}" '
        f'width="{image.shape[1]}" height="{image.shape[0]}" '
        f'src="{data_uri(image, lossless=title in _FLAT)}">'
        f'<i class="cross" data-vehicle="{index}"></i></div>'
        f'<figcaption>{escape(title)}<button type="button" title="Enlarge" aria-label="Enlarge">⤢</button>'
        "</figcaption></figure>"
        for title, image in view.images.items()
    )
    return Markup(
        f'<section class="vehicle"><h3>{_swatch(vehicle_rgb(index))}{escape(view.name)}</h3>'
        f'<div class="strips">{figures}</div></section>'
    )
