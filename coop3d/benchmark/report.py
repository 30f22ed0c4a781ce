"""``report.html``: one self-contained page per evaluation, and its plots as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coop3d.benchmark.cells import COLUMNS, cell, score_cells
from coop3d.benchmark.drives import has_poses, trajectory_card
from coop3d.benchmark.figures import to_png, to_svg
from coop3d.benchmark.pixels import about_pixels
from coop3d.benchmark.plots import WIDE_PLOTS, all_plots
from coop3d.benchmark.results import EntrantResult, Result, notes_text
from coop3d.evaluation import BUCKETS, ViewRow, shortest_warning
from coop3d.evaluation.labels import family_titles, title_of
from coop3d.files import safe_name, write_bytes, write_text
from coop3d.visualization.documents import card, document, facts, table
from coop3d.visualization.pages import Markup, escape

SHOWN = 8  # worst, and best, samples in the table


@dataclass(frozen=True)
class RankedSample:
    """A sample with what decides its rank: the largest translation error, or AbsRel where no pose is scored."""

    scenario: str
    frame: str
    agents: tuple[str, ...]
    badness: float
    rows: tuple[ViewRow, ...]

    @property
    def page(self) -> str:
        """File of its point-cloud page, relative to the result's folder."""
        name = safe_name("_".join((self.scenario, self.frame, *self.agents)))
        return f"scenes/{name}.html"


def ranked_samples(entrant: EntrantResult) -> list[RankedSample]:
    """All samples of an entrant, the worst first."""
    groups: dict[tuple[str, str, str], list[ViewRow]] = {}
    for row in entrant.rows:
        groups.setdefault((row.scenario, row.frame, row.reference_agent), []).append(row)
    ranked = []
    for (scenario, frame, _), rows in groups.items():
        errors = [r.translation_error_m for r in rows if math.isfinite(r.translation_error_m)]
        relative = [r.abs_rel for r in rows if math.isfinite(r.abs_rel)]
        badness = max(errors) if errors else float(np.mean(relative)) if relative else math.nan
        agents = tuple(dict.fromkeys(r.agent for r in rows))
        ranked.append(RankedSample(scenario, frame, agents, badness, tuple(rows)))
    return sorted(ranked, key=lambda s: (math.isnan(s.badness), -s.badness, s.scenario, s.frame))


def scored_samples(entrant: EntrantResult) -> list[RankedSample]:
    """The same without samples that have nothing to rank them by: they are neither good nor bad."""
    return [sample for sample in ranked_samples(entrant) if math.isfinite(sample.badness)]


def write_report(result: Result) -> Path:
    """Write ``report.html`` and ``plots/*.png`` into the result's folder; return the page's path."""
    body = [
        _scores(result),
        plot_cards(result, result.folder / "plots"),
        _distances(result),
        *([_registration(result), trajectory_card(result)] if has_poses(result) else []),
        *_extremes(result),
        _about(result),
    ]
    contract = result.contract
    title = f"Evaluation of {', '.join(e.name for e in result.models[:3])} on {contract['split']}"
    if len(result.models) == 1 and result.models[0].checkpoint:
        run = "/".join(Path(str(result.models[0].checkpoint["path"])).parts[-3:-1])
        title = f"Evaluation of {run} on {contract['split']}"
    note = (
        f"{contract['samples']} samples, {result.head['mode']}, contract {contract['name']} "
        f"({str(contract['sha256'])[:12]}), {result.head['created']}"
    )
    path = result.folder / "report.html"
    write_text(path, document(title, note, "".join(body)))
    return path


def plot_cards(result: Result, png_folder: Path | None = None) -> Markup:
    """Every plot there are data for, as SVG in cards; also as PNG files where a folder is given."""
    figures = []
    for stem, (caption, fig) in all_plots(result).items():
        if png_folder is not None:
            write_bytes(png_folder / f"{stem}.png", to_png(fig))
        wide = " wide" if stem in WIDE_PLOTS else ""
        title = f"<figcaption>{escape(caption)}</figcaption>"
        figures.append(f'<figure class="card block{wide}">{title}{to_svg(fig, stem)}</figure>')
    return Markup(f'<div class="plots">{"".join(figures)}</div>')


def _scores(result: Result) -> Markup:
    columns = {**COLUMNS, **family_titles("points_filtered/", "gain_filtered/")}
    head, rows = score_cells(result.entrants, columns)
    classes = ["" if e.kind == "checkpoint" else "other" for e in result.entrants]
    shown = shortest_warning(i for e in result.models for k, i in e.intervals.items() if k in columns)
    warning = f'<p class="warning">{escape(f"Read intervals with care: {shown}.")}</p>' if shown else ""
    warning += "".join(f'<p class="warning">{escape(w)}</p>' for w in about_pixels(result.entrants))
    notes = "".join(
        f'<p class="quiet">{escape(f"{e.name}: {notes_text(e)}")}</p>' for e in result.entrants if e.notes
    )
    about = (
        "Small print: 95 % intervals over resampled scenarios. Bold: best that has not seen the truth. Poses are of "
        "other vehicles than the reference; nothing is aligned unless it says so."
    )
    return card("Scores", f"{table(head, rows, classes)}{notes}{warning}", about)


def _distances(result: Result) -> Markup:
    """Median pose errors per true distance of the first model and the baselines that guess poses."""
    buckets = [b for b in BUCKETS if result.entrants[0].summary.get(f"pose/{b}/count", 0) > 0]
    shown = [e for e in result.entrants if e.kind != "oracle"]
    if not buckets:
        return Markup("")
    parts = []
    for name in ("translation_m", "rotation_deg"):
        head = [
            title_of(f"pose/{name}/median"),
            *(f"{b} ({result.entrants[0].summary[f'pose/{b}/count']:.0f})" for b in buckets),
        ]
        keys = [f"pose/{b}/{name}/median" for b in buckets]
        rows = [(e.name, [cell(k, e.summary.get(k, math.nan)) for k in keys]) for e in shown]
        classes = ["" if e.kind == "checkpoint" else "other" for e in shown]
        parts.append(card("Pose by true distance (number of poses)", table(head, rows, classes)))
    return Markup(f'<div class="two">{"".join(parts)}</div>')


def _registration(result: Result) -> Markup:
    """The table of the Image Matching Challenge, or for how many samples it is undefined."""
    title, total = "Registration of vehicle centres", len(result.entrants[0].samples)
    defined = int(result.entrants[0].summary.get("registration/samples", 0))
    count = f"Defined for {defined} of {total} samples: it takes four vehicles that are not on one line."
    if not defined:
        return card(title, f'<p class="quiet">{escape(f"Undefined. {count}")}</p>')
    head, rows = score_cells(result.entrants, family_titles("registration/"))
    classes = ["" if e.kind == "checkpoint" else "other" for e in result.entrants]
    about = (
        f"Small print: {count} After one similarity fitted per threshold, as in the Image Matching Challenge 2025: "
        "mAA is the mean over thresholds of the share of centres registered beyond the three that always fit."
    )
    return card(title, table(head, rows, classes), about)


def _extremes(result: Result) -> list[Markup]:
    """Worst and best samples of the first model, with links to their point clouds where these were written."""
    if not result.models:
        return []
    ranked = scored_samples(result.models[0])
    if not ranked:
        return []
    count = min(SHOWN, (len(ranked) + 1) // 2)
    name = result.models[0].name
    worst = card(f"Worst samples of {name}", _sample_table(result.folder, ranked[:count]))
    best = card(f"Best samples of {name}", _sample_table(result.folder, ranked[::-1][:count]))
    return [Markup(f'<div class="two">{worst}{best}</div>')]


def _sample_table(folder: Path, samples: Sequence[RankedSample]) -> Markup:
    head = [
        "scenario, frame",
        "vehicles",
        "distance [m]",
        "translation [m]",
        "rotation [deg]",
        "AbsRel",
        "points",
    ]
    return table(head, [(f"{s.scenario}, {s.frame}", _sample_cells(folder, s)) for s in samples])


def _sample_cells(folder: Path, sample: RankedSample) -> list[str]:
    def worst(name: str) -> float:
        values = [getattr(r, name) for r in sample.rows if math.isfinite(getattr(r, name))]
        return max(values) if values else math.nan

    there = (folder / sample.page).exists()
    link = f'<a href="{escape(sample.page)}">3D</a>' if there else "–"
    distance = worst("distance_m") if len(sample.agents) > 1 else math.nan
    relative = [r.abs_rel for r in sample.rows if math.isfinite(r.abs_rel)]
    return [
        f"<td>{escape(' + '.join(sample.agents))}</td>",
        cell("m", distance),
        cell("m", worst("translation_error_m")),
        cell("deg", worst("rotation_error_deg")),
        cell("abs_rel", float(np.mean(relative)) if relative else math.nan),
        f"<td>{link}</td>",
    ]


def _about(result: Result) -> Markup:
    """How the numbers came about."""
    head, contract = result.head, result.contract
    environment = head["environment"]
    pairs: dict[str, object] = {
        "Contract": f"{contract['name']}, SHA-256 {contract['sha256']}"
        + ("" if contract["is_file"] else " (written down from the run's config)"),
        "Pairs": f"policy {contract['pair_policy']}, within {contract['max_distance_m'] or 'any number of'} m"
        if contract["pair_policy"]
        else "as the config draws them",
        "Inputs of models": ", ".join(dict.fromkeys(e.inputs for e in result.models)),
        "Code": f"{head['code']['revision']}{' (with local changes)' if head['code']['dirty'] else ''}",
        "Machine": f"{environment['platform']}, GPUs: {', '.join(environment['gpus']) or 'none'}, "
        f"{environment['world_size']} process(es)",
        "Seconds per sample": ", ".join(f"{e.name} {e.seconds:.3f}" for e in result.entrants),
        "Samples left out": len(head["bad_samples"]),
    }
    for model in result.models:
        if model.checkpoint:
            pairs[f"Checkpoint {model.name}"] = (
                f"{model.checkpoint['path']}, step {model.checkpoint.get('step', '?')}, "
                f"SHA-256 {model.checkpoint['sha256'][:16]}"
            )
    return card("How these numbers came about", facts(pairs))
