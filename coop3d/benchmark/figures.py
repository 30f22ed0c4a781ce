"""Matplotlib figures without pyplot's global state; as PNG, and as SVG whose inks follow the page's theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coop3d.benchmark.baselines import BASELINES, LineStyle
from coop3d.benchmark.results import EntrantResult
from coop3d.visualization.pages import Markup

INK, QUIET, LINE, PANEL = "#1b2431", "#5b6777", "#d9dfe7", "#fefefe"  # stand for the page's variables in SVG
_VARIABLES = {INK: "var(--ink)", QUIET: "var(--quiet)", LINE: "var(--line)", PANEL: "var(--panel)"}
WIDTH, WIDE = 7.4, 14.6  # inches: half a page, and a whole one
PIXELS_PER_INCH = 100  # at most, on a page: its letters are then as large as the page's
MODEL_COLOURS = ("#2f7fe0", "#e07b2f", "#2fa36b", "#a46be0", "#d64f7a", "#2aa6b8", "#b59a1f", "#7d6b5d")
VERDICT_COLOURS = {"better": "#2f7fe0", "worse": "#d2691e", "": QUIET}  # as td.win and td.loss of the pages
_CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC",
)  # fmt: skip


def _installed(families: Sequence[str]) -> list[str]:
    """Those that this machine has; Matplotlib warns of every other one, at every text."""
    there = set(font_manager.get_font_names())
    return [family for family in families if family in there]


_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", *_installed(_CHINESE_FONTS)],  # each draws what those before cannot
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "coop3d",
}
_BASELINE_LINES = {baseline.title: baseline.line for baseline in BASELINES.values()}


def styles(entrants: Sequence[EntrantResult]) -> dict[str, LineStyle]:
    """Models in strong colours and solid lines, baselines muted and broken."""
    out, models = {}, 0
    for entrant in entrants:
        if entrant.kind == "checkpoint":
            out[entrant.name] = LineStyle(MODEL_COLOURS[models % len(MODEL_COLOURS)], "-", 2.0)
            models += 1
        else:
            out[entrant.name] = _BASELINE_LINES.get(entrant.name, LineStyle("#9aa6b5", "--", 1.2))
    return out


@contextmanager
def style() -> Iterator[None]:
    """The project's look while a figure is made."""
    with mpl.rc_context(_STYLE):
        yield


def figure(
    columns: int = 2, rows: int = 1, height: float = 2.9, width: float = WIDTH
) -> tuple[Figure, list[Axes]]:
    """A figure with axes in reading order."""
    fig = Figure(figsize=(width, height * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    return fig, list(axes.ravel())


def panels(count: int, per_row: int, height: float = 2.9, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` axes in rows of ``per_row`` at most; nothing is drawn where a row has none."""
    columns = min(per_row, count)
    fig, axes = figure(columns, math.ceil(count / columns), height, width)
    for ax in axes[count:]:
        ax.set_visible(False)
    return fig, axes[:count]


def to_png(fig: Figure) -> bytes:
    """On white, 160 dots per inch."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(fig: Figure, title: str) -> Markup:
    """Inline SVG; its inks are the page's CSS variables, its text the page's text.

    Matplotlib escapes the text it draws; the title is a label for screen readers.
    """
    buffer = io.StringIO()
    with style():
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # ids must differ between the pictures of one page
    tag = re.sub(r"\W+", "", title)
    text = re.sub(r'\bid="', f'id="{tag}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{tag}-", text)
    most = f"max-width: {fig.get_figwidth() * PIXELS_PER_INCH:.0f}px"
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="{most}"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    return Markup(text)
