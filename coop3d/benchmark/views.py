"""What a model's views are and where their truth comes from, by its config: only like views have like scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coop3d.datasets.opv2v import AUTO, DEFAULT_CAMERAS

Views = Mapping[str, Any]  # name -> value; empty: not known

_PANORAMAS = ("panorama_source", "StitchedPanoramas")
_PANORAMA_DEFAULTS = {
    "kind": "rig",
    "centre": "lidar",
    "depth_source": AUTO,
    "cameras": list(DEFAULT_CAMERAS),
}
_CAMERA_DEFAULTS = {"width": None, "height": None, "vfov_deg": 90.0, "elevation_center_deg": 0.0}
_PHOTOGRAPH_DEFAULTS = {"width": None, "height": None, "cameras": list(DEFAULT_CAMERAS)}


def described_views(config: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What decides the pixels of a split and their truth; empty where the config does not say.

    Roots, caches and colours are left out: they do not change what is measured. So is ``auto``, which means what the
    data have: there the number of valid pixels tells.

    Args:
        config: of a run, a plain mapping with references resolved.
        split: train, val or test.
    """
    node = config.get("dataset", {}).get(split)
    source = node.get("source") if isinstance(node, Mapping) else None
    if not isinstance(source, Mapping):
        return {}
    target = _class_of(source)
    if target == "PinholeViews":
        return {"views": "photographs", **_values(source, _PHOTOGRAPH_DEFAULTS)}
    if target not in _PANORAMAS:
        return {}
    camera = source.get("camera", {})
    return {
        "views": "panoramas",
        **_values(source, _PANORAMA_DEFAULTS),
        "projection": _class_of(camera),
        **_values(camera, _CAMERA_DEFAULTS),
    }


def views_difference(a: Views, b: Views) -> str:
    """How views differ, in words; "" where they do not, or where nothing is known of one of them."""
    names = [name for name in a if name in b and a[name] != b[name]]
    return ", ".join(f"{name} {b[name]} instead of {a[name]}" for name in names)


def scored_split(options: Mapping[str, Any]) -> str:
    """The split of a run's config that an evaluation's views are described by; a contract's are ``test``'s."""
    return "test" if options.get("frames_json") else str(options.get("split", "test"))


def _class_of(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "")).rsplit(".", 1)[-1]


def _values(node: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: node.get(name, default) for name, default in defaults.items()}
    return {name: value for name, value in found.items() if value not in (None, AUTO)}
