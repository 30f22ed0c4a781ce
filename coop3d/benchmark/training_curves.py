"""Learning curves of training runs as one picture, from their ``log.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from coop3d.benchmark.figures import MODEL_COLOURS, panels, style, to_png
from coop3d.evaluation.labels import titles
from coop3d.files import names_apart, without_common_end, write_bytes
from coop3d.training.run_log import read_log

PANELS = {
    "loss": "loss",
    "loss/matching/entropy": "entropy of a match [nats]",
    "loss/matching/right": "best match is right, share of cells",
    **titles("pose/translation_m/median", "pose/rotation_deg/median"),
    "range/abs_rel": "range, AbsRel",
    **titles("mask/iou"),
    "confidence/ause": "confidence, AUSE (1: chance)",
}
PER_ROW, PANEL_WIDTH = 3, 3.3  # inches: letters can be read where a page shows the picture 900 pixels wide


def plot_training(runs: Sequence[Path], output: Path, keys: Sequence[str] | None = None) -> tuple[str, ...]:
    """Draw training (thin) and validation (dots) of every run over optimiser steps.

    Args:
        runs: run directories, named by the last parts of their paths that differ.
        output: PNG file; replaced.
        keys: metrics, a panel each; None: those of `PANELS` that some run has.

    Returns:
        The keys drawn.

    Raises:
        ValueError: a run has no log or is given twice, or no run has one of the keys.
    """
    logs = {run: {kind: list(read_log(run / "log.jsonl", kind)) for kind in ("train", "val")} for run in runs}
    for run, log in logs.items():
        if not any(log.values()):
            raise ValueError(f"{run}/log.jsonl: no records; expected the directory of a training run")
    known = {key for log in logs.values() for records in log.values() for r in records for key in r}
    missing = [key for key in keys or () if key not in known]
    if missing:
        found = ", ".join(sorted(k for k in known if "/" in k or k == "loss"))
        raise ValueError(f"no run has {', '.join(missing)}; there are: {found}")
    keys = tuple(key for key in (keys or PANELS) if key in known)
    names = names_apart(without_common_end([run.resolve() for run in runs]))
    colours = [MODEL_COLOURS[i % len(MODEL_COLOURS)] for i in range(len(runs))]
    last = max(r["step"] for log in logs.values() for records in log.values() for r in records)
    with style():
        columns = min(PER_ROW, len(keys))
        fig, axes = panels(len(keys), PER_ROW, width=PANEL_WIDTH * columns)
        for ax, key in zip(axes, keys, strict=True):
            for log, colour, name in zip(logs.values(), colours, names, strict=True):
                _draw(ax, log, key, colour, name)
            ax.set(title=PANELS.get(key, key), xlabel="optimiser step", xlim=(0, 1.03 * last))
        handles = [Line2D([], [], color=c, label=name) for c, name in zip(colours, names, strict=True)]
        fig.legend(
            handles=handles if len(runs) > 1 else [],  # one needs no name
            loc="outside lower center",
            ncols=columns,
            title="thin: training, dots: validation",
        )
    write_bytes(output, to_png(fig))
    return keys


def _draw(ax: Axes, log: dict[str, list[dict[str, Any]]], key: str, colour: str, name: str) -> None:
    for kind, look in (
        ("train", {"linewidth": 0.8, "alpha": 0.6}),
        ("val", {"marker": "o", "markersize": 3.5}),
    ):
        points = [(r["step"], r[key]) for r in log[kind] if isinstance(r.get(key), (int, float))]
        if points:
            ax.plot(*zip(*points, strict=True), color=colour, label=name, **look)
