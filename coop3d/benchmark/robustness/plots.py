"""Change of each score against severity, one picture of panels per family."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coop3d.benchmark.figures import INK, QUIET, VERDICT_COLOURS, panels, style
from coop3d.benchmark.robustness.findings import Finding, Findings
from coop3d.evaluation import Comparison, verdict
from coop3d.evaluation.labels import titles

PANELS = {
    **titles(
        "pose/translation_m/median", "pose/rotation_deg/median", "range/abs_rel", "scale/error/median", "mask/iou",
        "confidence/log", "confidence/ause",
    ),
    "scale/error/median": "scale off by, median",
}  # fmt: skip


PER_ROW, PANEL_HEIGHT, PICTURE_WIDTH = 4, 1.9, 8.6  # inches: letters can be read at a width of 900 pixels


def family_plots(found: Findings) -> dict[str, tuple[str, Figure]]:
    """Family to (caption, figure)."""
    families: dict[str, list[Finding]] = {}
    for case in found.cases:
        families.setdefault(case.case.family, []).append(case)
    keys = [k for k in PANELS if k in found.keys]
    with style():
        return {
            name: (f"{name}: change against the clean run ({cases[0].case.unit})", _figure(cases, keys))
            for name, cases in families.items()
        }


def _figure(cases: list[Finding], keys: list[str]) -> Figure:
    fig, axes = panels(len(keys), PER_ROW, PANEL_HEIGHT, PICTURE_WIDTH)
    labels = [_label(f) for f in cases]
    for ax, key in zip(axes, keys, strict=True):
        ax.axhline(0, color=QUIET, linewidth=1)
        for x, case in enumerate(cases):
            _point(ax, x, case.scores[key], VERDICT_COLOURS[verdict(key, case.scores[key])])
        if len(cases) > 1 and cases[0].case.family != "black":
            ax.plot(
                range(len(cases)),
                [f.scores[key].difference for f in cases],
                color=QUIET,
                linewidth=1,
                zorder=1,
            )
        ax.set_xticks(range(len(cases)), labels)
        if max(map(len, labels)) > 4:  # words would touch
            for text in ax.get_xticklabels():
                text.set(rotation=40, ha="right", rotation_mode="anchor")
        ax.set(title=PANELS[key], xlim=(-0.6, len(cases) - 0.4))
    return fig


def _label(found: Finding) -> str:
    case = found.case
    return case.name.removeprefix("black_") if case.family == "black" else f"{case.severity:g}"


def _point(ax: Axes, x: float, found: Comparison, colour: str) -> None:
    if not math.isfinite(found.difference):
        return
    if found.scenarios > 1 and math.isfinite(found.low):
        ax.vlines(x, found.low, found.high, color=colour, linewidth=2.5, alpha=0.6)
    ax.plot(
        x, found.difference, marker="o", markersize=5, color=colour, markeredgecolor=INK, markeredgewidth=0.4
    )
