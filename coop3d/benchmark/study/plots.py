"""Pictures of a study: learning curves with their spread over seeds, and a forest plot of the scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from coop3d.benchmark.figures import INK, MODEL_COLOURS, QUIET, VERDICT_COLOURS, WIDE, panels, style
from coop3d.benchmark.study.outcome import SetOutcome
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.record import StudyResult
from coop3d.benchmark.study.state import RunState, log_records
from coop3d.benchmark.study.tables import arm_label, shown_keys
from coop3d.evaluation.labels import title_of, titles

# of validations, on the same samples for all arms unless their datasets differ
CURVES = titles("pose/translation_m/median", "pose/rotation_deg/median", "range/abs_rel", "mask/iou")
PER_ROW = 4
CURVES_PER_ROW, CURVE_HEIGHT = 2, 2.8  # inches
LINES = ("-", "--", ":", "-.")
Floats = NDArray[np.float64]


def arm_colours(study: Study) -> dict[str, tuple[str, str]]:
    """Arm -> colour and line style, the same in every picture."""
    looks = itertools.cycle((colour, line) for line in LINES for colour in MODEL_COLOURS)
    return dict(zip(study.arms, looks, strict=False))


def curves_figure(result: StudyResult) -> Figure | None:
    """Validation scores over steps: mean over seeds, band from lowest to highest; None before there are some."""
    curves = {key: _curves(result.states, key) for key in CURVES}
    keys = [key for key, by_arm in curves.items() if by_arm]
    if not keys:
        return None
    with style():
        fig, axes = panels(len(keys), CURVES_PER_ROW, CURVE_HEIGHT)
        colours = arm_colours(result.study)
        for ax, key in zip(axes, keys, strict=True):
            for arm, (steps, values) in curves[key].items():
                colour, line = colours[arm]
                low, mean, high = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
                ax.plot(steps, mean, color=colour, linestyle=line, label=arm_label(result.study, arm))
                ax.plot(steps, mean, color=colour, linestyle="", marker="o", markersize=3)
                ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.set(title=CURVES[key], xlabel="optimiser step")
            if key != "mask/iou" and all((values > 0).all() for _, values in curves[key].values()):
                _logarithmic(ax)
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))
    return fig


def _logarithmic(ax: Axes) -> None:
    """Where one arm is far worse, the others still stand apart; ticks are plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _curves(states: Sequence[RunState], key: str) -> dict[str, tuple[list[int], Floats]]:
    """Arm -> steps, and values [seeds, steps] where all its seeds have been validated."""
    found: dict[str, list[dict[int, float]]] = {}
    for state in states:
        records = log_records(state.run, "val")
        points = {int(r["step"]): float(r[key]) for r in records if isinstance(r.get(key), (int, float))}
        points = {step: value for step, value in points.items() if math.isfinite(value)}
        if points:
            found.setdefault(state.run.arm, []).append(points)
    out = {}
    for arm, seeds in found.items():
        steps = sorted(set.intersection(*(set(points) for points in seeds)))
        if steps:
            out[arm] = steps, np.array([[points[s] for s in steps] for points in seeds])
    return out


def forest_figure(study: Study, outcome: SetOutcome) -> Figure | None:
    """Scores of every arm with intervals, seeds as small dots; None without a score."""
    keys = shown_keys(study, outcome)
    if not keys:
        return None
    with style():
        fig, axes = panels(len(keys), PER_ROW, max(1.6, 0.7 + 0.3 * len(outcome.arms)), WIDE)
        for i, (ax, key) in enumerate(zip(axes, keys, strict=True)):
            _forest(ax, study, outcome, key, names=i % PER_ROW == 0)
    return fig


def _forest(ax: Axes, study: Study, outcome: SetOutcome, key: str, names: bool) -> None:
    labels: Mapping[int, str] = {y: arm_label(study, arm) for y, arm in enumerate(outcome.arms)}
    for y, arm in enumerate(outcome.arms.values()):
        interval, found = arm.intervals[key], arm.differences.get(key)
        colour = INK if found is None else VERDICT_COLOURS.get(found.verdict, QUIET)
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.6)
        ax.plot(interval.value, y, marker="o", markersize=5, color=colour)
        below = [y + 0.25] * len(arm.seeds)
        ax.plot(arm.values(key), below, linestyle="", marker=".", markersize=4, color=colour, alpha=0.5)
    if study.against in outcome.arms:
        value = outcome.arms[study.against].intervals[key].value
        ax.axvline(value, color=QUIET, linestyle=":", linewidth=1)
    ax.set(title=title_of(key), ylim=(len(labels) - 0.4, -0.6))
    ax.set_yticks(list(labels), list(labels.values()) if names else [""] * len(labels))
    ax.grid(axis="y", visible=False)
    _limits(ax, outcome, key)


def _limits(ax: Axes, outcome: SetOutcome, key: str) -> None:
    """With two seeds an interval may reach far past every model that was trained: do not let it squeeze the rest."""
    values = [v for arm in outcome.arms.values() for v in arm.values(key) if math.isfinite(v)]
    if not values:
        return
    spread = max(max(values) - min(values), 0.05 * max(map(abs, values)), 1e-2)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, min(values) - 2 * spread), min(high, max(values) + 2 * spread))
