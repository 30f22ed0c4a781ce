"""``report.html`` of an evaluation of robustness: one self-contained page, and its plots as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coop3d.benchmark.cells import cell
from coop3d.benchmark.differences import SHARES, difference_cell
from coop3d.benchmark.figures import to_png, to_svg
from coop3d.benchmark.robustness.evaluate import Robustness
from coop3d.benchmark.robustness.findings import KEYS, Finding, Findings
from coop3d.benchmark.robustness.plots import family_plots
from coop3d.benchmark.robustness.results import groups, short_heads, shown_warning
from coop3d.evaluation import verdict
from coop3d.evaluation.labels import LABELS
from coop3d.files import write_bytes, write_text
from coop3d.visualization.documents import card, document, facts, table
from coop3d.visualization.pages import Markup, escape


def write_robustness_page(robustness: Robustness) -> Path:
    """Write ``report.html`` and ``plots/robustness_<family>.png``; return the page's path."""
    found, head, folder = robustness.findings, robustness.head, robustness.folder
    body = [_changes(found), _plots(found, folder), *_values(found), _knowing(found), _about(found, head)]
    contract = head["contract"]
    checkpoint = "/".join(Path(str(head["checkpoint"]["path"])).parts[-2:])
    note = (
        f"{contract['samples']} samples, {head['mode']}, contract {contract['name']} "
        f"({str(contract['sha256'])[:12]}), {head['created']}"
    )
    path = folder / "report.html"
    write_text(path, document(f"Robustness of {checkpoint} on {contract['split']}", note, "".join(body)))
    return path


def _changes(found: Findings) -> Markup:
    keys = found.keys
    clean = [cell(k, found.clean[k].value, found.clean[k]) for k in keys]
    rows = [("clean", ["<td></td>", *clean, "<td></td>"])]
    for f in found.cases:
        cells = [difference_cell(k, f.scores[k], verdict(k, f.scores[k])) for k in keys]
        rows.append((f.case.name, [f"<td>{f.samples}</td>", *cells, f"<td>{escape(f.knows)}</td>"]))
    head = ["", "samples", *short_heads(keys), "confidence knows"]
    warning = shown_warning(found)
    warnings = [f"Read intervals with care: {warning}."] if warning else []
    warnings += [
        f"{f.case.name}: {n} samples left out: {why}" for f in found.cases for why, n in f.left_out.items()
    ]
    warnings += [f"{name} skipped: {reason}" for name, reason in found.skipped.items()]
    lines = "".join(f'<p class="warning">{escape(w)}</p>' for w in warnings)
    about = (
        "First line: the clean run. Below: differences to it, paired frame by frame at the same targets, with 95 % "
        "intervals over resampled scenarios. Orange: certainly worse, blue: certainly better. Confidence knows: yes "
        f"where its mean certainly falls while some error certainly grew; unharmed where none grew. ↑ ↓: "
        f"which way is better. {SHARES}"
    )
    return card("What each disturbance changes", f"{table(head, rows)}{lines}", about)


def _plots(found: Findings, folder: Path) -> Markup:
    figures = []
    for family, (caption, fig) in family_plots(found).items():
        write_bytes(folder / "plots" / f"robustness_{family}.png", to_png(fig))
        title = f"<figcaption>{escape(caption)}</figcaption>"
        figures.append(
            f'<figure class="card block wide">{title}{to_svg(fig, f"robustness-{family}")}</figure>'
        )
    return Markup(f'<div class="plots">{"".join(figures)}</div>')


def _values(found: Findings) -> list[Markup]:
    """By number of vehicles, and by shared sight: values with intervals."""
    keys, cards = found.keys, []
    for heading, first, rows in groups(found):
        body = [
            (name, [f"<td>{escape(count)}</td>", *(cell(k, row[k].value, row[k]) for k in keys)])
            for name, count, row in rows
        ]
        cards.append(card(heading, table([first, "views", *short_heads(keys)], body)))
    return cards


def _knowing(found: Findings) -> Markup:
    """Does the confidence sort clean and disturbed views together?"""
    head = ["", "AUSE, range", "rank corr., range", "AUSE, position", "rank corr., position"]
    rows = [(f.case.name, _sorted_cells(f)) for f in found.cases]
    about = (
        "Mean confidence of a view against its error, clean and disturbed views together. AUSE: 0 sorts as the errors "
        "do, 1 is no better than chance. Rank correlation with minus the error: 1 is best."
    )
    return card("Does confidence tell good views from spoilt ones?", table(head, rows), about)


def _sorted_cells(found: Finding) -> list[str]:
    return [cell(name, value) for kind in ("range", "pose") for name, value in
            found.views_sorted[kind]._asdict().items()]  # fmt: skip


def _about(found: Findings, head: Mapping[str, Any]) -> Markup:
    pairs: dict[str, object] = {f.case.name: f.case.about for f in found.cases}
    code, checkpoint = head["code"], head["checkpoint"]
    pairs |= {
        "Seed of the disturbances": head["options"]["seed"],
        "Inputs of the model": head["options"]["inputs"],
        "Checkpoint": f"{checkpoint['path']}, step {checkpoint['step']}, SHA-256 {checkpoint['sha256'][:16]}",
        "Code": f"{code['revision']}{' (with local changes)' if code['dirty'] else ''}",
        "Scores": ", ".join(f"{LABELS[k].short} = {k}" for k in KEYS),
    }
    return card("What was done", facts(pairs))
