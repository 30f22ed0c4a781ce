"""What an evaluation looks like: one function per picture, from rows to a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coop3d.benchmark.baselines import BASELINES
from coop3d.benchmark.drives import draw_tracks
from coop3d.benchmark.figures import INK, LINE, MODEL_COLOURS, QUIET, WIDE, WIDTH, figure, style, styles
from coop3d.benchmark.results import EntrantResult, Result, by_run
from coop3d.evaluation import ViewRow, better
from coop3d.evaluation.labels import LABELS, titles
from coop3d.evaluation.rows import BANDS

FloatArray = NDArray[np.float64]
WIDE_PLOTS = ("tracks", "scenarios", "curves")
PER_BIN = 8  # poses per point of the curve over distance

RADAR = {key: label.axis for key, label in LABELS.items() if label.axis}
CURVES = {
    **titles("pose/translation_m/median", "pose/rotation_deg/median", "range/abs_rel"),
    "scale/error/median": "scale factor off by, median",
}
RADAR_LIMIT = 3.0  # how often an error may be halved or doubled before the curve leaves the plot


def all_plots(result: Result) -> dict[str, tuple[str, Figure]]:
    """File stem to (caption, figure), those for which there are data."""
    makers: dict[str, tuple[str, Callable[[Result], Figure | None]]] = {
        "error_vs_distance": (
            "Pose error against true distance: medians over neighbouring distances",
            _distance,
        ),
        "recall": ("Share of poses within an error", _recall),
        "range": ("Range error against true range, and error of scale per view", _range_and_scale),
        "radar": ("Against a baseline: outside the ring is better, each line doubles", _radar),
        "tracks": ("The longest drives from above: true and predicted positions in the world", draw_tracks),
        "scenarios": ("Per scenario: median translation error and mean AbsRel", _scenarios),
        "curves": ("Over training steps", _curves),
    }
    out = {}
    with style():
        for stem, (caption, make) in makers.items():
            fig = make(result)
            if fig is not None:
                out[stem] = (caption, fig)
    return out


def _poses(entrant: EntrantResult) -> list[ViewRow]:
    """Rows whose metric pose is scored; of photographs that share a vehicle's pose, the first."""
    return [r for r in entrant.rows if r.distance_bucket and math.isfinite(r.translation_error_m)]


def _column(rows: Sequence[ViewRow], name: str) -> FloatArray:
    return np.array([getattr(r, name) for r in rows], dtype=float)


def _drawn(result: Result, score: str) -> list[EntrantResult]:
    """Entrants worth a line: the truth's zero errors are not, nor lines that hide below another one's."""
    seen: list[tuple[float, ...]] = []
    out = []
    for entrant in result.entrants:
        if entrant.name == BASELINES["truth"].title:
            continue
        values = tuple(np.nan_to_num(_column(entrant.rows, score), nan=-1.0))
        if values not in seen:
            seen.append(values)
            out.append(entrant)
    return out


def _distance(result: Result) -> Figure | None:
    if not any(map(_poses, result.entrants)):
        return None
    fig, axes = figure()
    look = styles(result.entrants)
    scores = {"translation_error_m": "translation error [m]", "rotation_error_deg": "rotation error [deg]"}
    for ax, (score, label) in zip(axes, scores.items(), strict=True):
        for entrant in _drawn(result, score):
            rows = sorted(_poses(entrant), key=lambda r: r.distance_m)
            x, y = _column(rows, "distance_m"), _column(rows, score)
            if entrant.kind == "checkpoint":
                ax.scatter(x, y, s=9, alpha=0.3, color=look[entrant.name].color, linewidths=0)
            count = max(1, len(rows) // PER_BIN)
            bins = np.array_split(np.arange(len(rows)), count)
            ax.plot(
                [x[b].mean() for b in bins], [np.median(y[b]) for b in bins], marker="o", markersize=2.5,
                label=entrant.name, **look[entrant.name]._asdict(),
            )  # fmt: skip
        ax.set(xlabel="true distance to the reference [m]", title=label, ylim=(0, None), xlim=(0, None))
    _legend_below(fig, axes[0])
    return fig


def _recall(result: Result) -> Figure | None:
    if not any(map(_poses, result.entrants)):
        return None
    fig, axes = figure()
    look = styles(result.entrants)
    scores = {
        "translation_error_m": ("translation error below [m]", 0.05, 100.0),
        "rotation_error_deg": ("rotation error below [deg]", 0.05, 180.0),
    }
    for ax, (score, (label, low, high)) in zip(axes, scores.items(), strict=True):
        for entrant in _drawn(result, score):
            values = np.sort(_column(_poses(entrant), score))
            x = np.concatenate([[low], np.clip(values, low, high), [high]])
            share = np.arange(len(values) + 1) / max(len(values), 1)
            ax.step(x, [*share, share[-1]], where="post", label=entrant.name, **look[entrant.name]._asdict())
        ax.set(xscale="log", xlim=(low, high), ylim=(0, 1.02), xlabel=label, title="share of poses")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _legend_below(fig, axes[0])
    return fig


def _range_and_scale(result: Result) -> Figure | None:
    if not any(r.valid_pixels for e in result.entrants for r in e.rows):
        return None
    fig, (left, right) = figure()
    look = styles(result.entrants)
    drawn = _drawn(result, "abs_rel")
    for entrant in drawn:
        found = [entrant.summary.get(f"range/{band}/abs_rel", math.nan) for band in BANDS]
        left.plot(
            range(len(BANDS)),
            found,
            marker="o",
            markersize=3,
            label=entrant.name,
            **look[entrant.name]._asdict(),
        )
    left.set_xticks(range(len(BANDS)), [b.replace("m", " m") for b in BANDS])
    left.set(
        title="AbsRel by true range, pixels of all views", xlabel="true range along the ray", ylim=(0, None)
    )
    factors = {e.name: _finite(_column(e.rows, "scale_error")) for e in drawn}
    top = max((float(np.quantile(v, 0.98)) for v in factors.values() if len(v)), default=2.0)
    edges = np.geomspace(1.0, max(top, 1.2), 25)
    for entrant in drawn:
        values = factors[entrant.name]
        if len(values):
            filled = entrant.kind == "checkpoint"
            weights = np.full(len(values), 1 / len(values))
            line = look[entrant.name]
            right.hist(
                np.clip(values, edges[0], edges[-1]), edges.tolist(), weights=weights,
                histtype="stepfilled" if filled else "step",
                color=line.color, alpha=0.55 if filled else 1.0, linestyle=line.linestyle, linewidth=line.linewidth,
            )  # fmt: skip
    right.set(
        title="share of views",
        xlabel="scale off by this factor (1 is right; last bin: and more)",
        xscale="log",
    )
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if edges[-1] < 8 else "")
    _legend_below(fig, left)
    return fig


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _scenarios(result: Result) -> Figure | None:
    names = sorted({r.scenario for r in result.entrants[0].rows})
    shown = [*result.models[:3], *[e for e in result.entrants if e.kind == "trivial"][-1:]]
    if not names or not shown:
        return None
    fig, axes = figure(width=WIDE, height=max(1.8, 0.26 * len(names) * max(1, len(shown) / 2) + 0.9))
    look = styles(result.entrants)
    scores: dict[str, tuple[str, Callable[[FloatArray], Any]]] = {
        "translation_error_m": ("translation error, median [m]", np.median),
        "abs_rel": ("AbsRel, mean", np.mean),
    }
    thick = 0.8 / len(shown)
    for ax, (score, (label, reduce)) in zip(axes, scores.items(), strict=True):
        for k, entrant in enumerate(shown):
            values = []
            for name in names:
                found = _finite(_column([r for r in entrant.rows if r.scenario == name], score))
                values.append(float(reduce(found)) if len(found) else math.nan)
            where = np.arange(len(names)) + (k - (len(shown) - 1) / 2) * thick
            faded = 1.0 if entrant.kind == "checkpoint" else 0.55
            ax.barh(
                where, values, thick * 0.9, color=look[entrant.name].color, alpha=faded, label=entrant.name
            )
        ax.set(title=label, ylim=(len(names) - 0.4, -0.6))
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names), fontsize=8)
        ax.grid(axis="y", visible=False)
    _legend_below(fig, axes[0])
    return fig


def radar_values(summary: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """How many times the error was halved against a baseline, per axis: ``log2(error_baseline / error)``.

    For scores where higher is better the error is ``1 - score``, for the scale factor its logarithm. Clipped to
    +-`RADAR_LIMIT`; axes without both numbers are left out.
    """

    def error(numbers: Mapping[str, float], key: str) -> float:
        value = numbers.get(key, math.nan)
        if better(key) == "higher":
            return 1.0 - value
        return math.log(value) if key.startswith("scale/") and value >= 1.0 else value

    out = {}
    for key, label in RADAR.items():
        mine, other = error(summary, key), error(baseline, key)
        if math.isfinite(mine) and math.isfinite(other):
            ratio = math.log2(max(other, 1e-9) / max(mine, 1e-9))
            out[label] = min(max(ratio, -RADAR_LIMIT), RADAR_LIMIT)
    return out


def _radar(result: Result) -> Figure | None:
    trivial = [e for e in result.entrants if e.kind == "trivial"]
    if not trivial or not result.models:
        return None
    baseline = next((e for e in trivial if e.name == BASELINES["row"].title), trivial[-1])
    look = styles(result.entrants)
    others = [*result.models, *[e for e in result.entrants if e.kind == "classical"]]
    values = {e.name: radar_values(e.summary, baseline.summary) for e in others}
    labels = list(values[others[0].name])
    if len(labels) < 3:
        return None
    fig = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    ax = fig.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    closed = np.append(angles, angles[0])
    ax.plot(
        np.linspace(0, 2 * np.pi, 200),
        np.zeros(200),
        color=QUIET,
        linewidth=1.4,
        label=f"ring: {baseline.name}",
    )
    for name, found in values.items():
        line = [found.get(label, 0.0) for label in labels]
        ax.plot(closed, [*line, line[0]], marker="o", markersize=3, label=name, **look[name]._asdict())
        if look[name].linestyle == "-":
            ax.fill(closed, [*line, line[0]], color=look[name].color, alpha=0.10)
    ax.set(ylim=(-3.3, 3.3), theta_offset=np.pi / 2, theta_direction=-1)
    ax.set_xticks(angles, labels)
    ax.tick_params(axis="x", pad=10)
    ax.set_yticks(range(-3, 4), ["", "x4", "", "", "", "1/4", ""], fontsize=7.5)
    ax.spines["polar"].set_color(LINE)
    fig.legend(loc="outside right center")
    return fig


def _curves(result: Result) -> Figure | None:
    """A line per training run of which there are checkpoints of several steps."""
    runs = {run: models for run, models in by_run(result.models).items() if len(set(map(_step, models))) > 1}
    models = [model for of_run in runs.values() for model in of_run]
    keys = [k for k in CURVES if any(math.isfinite(e.summary.get(k, math.nan)) for e in models)]
    if not keys:
        return None
    fig, axes = figure(columns=len(keys), width=WIDE)
    for ax, key in zip(axes, keys, strict=True):
        for i, (run, of_run) in enumerate(runs.items()):
            _curve(ax, key, of_run, MODEL_COLOURS[i % len(MODEL_COLOURS)], run)
        ax.set(title=CURVES[key], xlabel="optimiser step")
    if len(runs) > 1:
        _legend_below(fig, axes[0])
    return fig


def _curve(ax: Axes, key: str, models: Sequence[EntrantResult], colour: str, run: str) -> None:
    """One run's score over its steps with intervals; the best is ringed."""
    x = [_step(e) for e in models]
    y = np.array([e.summary.get(key, math.nan) for e in models])
    intervals = [e.intervals.get(key) for e in models]
    low, high = ([getattr(i, end, math.nan) for i in intervals] for end in ("low", "high"))
    if np.isfinite([*low, *high]).all():
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, y, marker="o", color=colour, linewidth=2, label=run)
    if np.isfinite(y).any():
        best = int(np.nanargmin(y))
        ax.plot(x[best], y[best], marker="o", markersize=9, markerfacecolor="none", color=INK)


def _step(model: EntrantResult) -> int:
    return int(model.checkpoint["step"]) if model.checkpoint else 0


def _legend_below(fig: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        fig.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2 if len(handles) == 4 else min(3, len(handles)),
        )
