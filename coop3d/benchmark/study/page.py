"""``study.html``: one self-contained page, and its pictures as PNG."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from coop3d.benchmark.cells import cell
from coop3d.benchmark.differences import SHARES, difference_cell
from coop3d.benchmark.figures import to_png, to_svg
from coop3d.benchmark.study.outcome import ArmScores, SetOutcome
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.plots import curves_figure, forest_figure
from coop3d.benchmark.study.record import StudyResult
from coop3d.benchmark.study.tables import (
    LEGEND,
    arm_label,
    cost_lines,
    overview_lines,
    overview_title,
    set_title,
    shown_keys,
    title,
)
from coop3d.environment import git_revision
from coop3d.evaluation.labels import title_of
from coop3d.files import safe_name, write_bytes, write_text
from coop3d.visualization.documents import card, document, facts, table
from coop3d.visualization.pages import Markup, escape


def write_page(result: StudyResult) -> Path:
    """Write ``study.html``, ``curves.png`` and ``forest_<samples>.png``; return the page's path."""
    study = result.study
    body = [_failures(result), _arms(study), _overview(result)]
    for outcome in result.outcomes:
        forest = forest_figure(study, outcome)
        body += [
            _warnings(outcome),
            _scores(study, outcome),
            _differences(study, outcome),
            _picture(
                result.folder,
                f"forest_{safe_name(outcome.name)}",
                f"{outcome.name}: mean over seeds with 95 % interval; below it, single seeds. Blue: better than "
                f"{study.against}, orange: worse. Dotted: {study.against}",
                forest,
            ),
        ]
    caption = "Validation while training: mean over seeds, band from the lowest to the highest seed"
    body += [
        _picture(result.folder, "curves", caption, curves_figure(result)),
        _costs(result),
        _about(result),
    ]
    path = result.folder / "study.html"
    write_text(path, document(f"Study: {study.name}", title(study), "".join(body)))
    return path


def _picture(folder: Path, stem: str, caption: str, fig: Figure | None) -> Markup:
    if fig is None:
        return Markup("")
    write_bytes(folder / f"{stem}.png", to_png(fig))
    figcaption = f"<figcaption>{escape(caption)}</figcaption>"
    content = f'<figure class="card block wide">{figcaption}{to_svg(fig, stem)}</figure>'
    return Markup(f'<div class="plots">{content}</div>')


def _failures(result: StudyResult) -> Markup:
    lines = "".join(f'<p class="warning">{escape(f)}</p>' for f in result.failures)
    return card("Failed", lines) if lines else Markup("")


def _arms(study: Study) -> Markup:
    rows = [
        (
            arm_label(study, arm.name),
            [
                f'<td class="text">{escape(arm.note)}</td>',
                f'<td class="text"><code>{escape(" ".join(arm.overrides) or "the base")}</code></td>',
            ],
        )
        for arm in study.arms.values()
    ]
    return card("Arms", table(["", "what", "overrides"], rows), study.description)


def _overview(result: StudyResult) -> Markup:
    if len(result.outcomes) < 2:
        return Markup("")
    head, *lines = overview_lines(result)
    rows = [(name, [f"<td>{escape(c)}</td>" for c in cells]) for name, *cells in lines]
    return card(overview_title(result.study), table(head, rows), LEGEND)


def _warnings(outcome: SetOutcome) -> Markup:
    lines = "".join(f'<p class="warning">{escape(w)}</p>' for w in outcome.warnings)
    return card(f"Read with care: {outcome.name}", lines) if lines else Markup("")


def _scores(study: Study, outcome: SetOutcome) -> Markup:
    keys = shown_keys(study, outcome)
    rows = [
        (
            arm_label(study, arm.arm),
            [
                f"<td>{len(arm.seeds)}</td>",
                *(cell(k, arm.intervals[k].value, arm.intervals[k]) for k in keys),
            ],
        )
        for arm in outcome.arms.values()
    ]
    about = (
        "Mean over seeds of the score of each trained model. Small print: 95 % interval over scenarios (drawn with "
        "replacement) and seeds (Student's t)."
    )
    head = ["", "seeds", *(title_of(k) for k in keys)]
    return card(f"Scores on {set_title(outcome)}", table(head, rows), about)


def _differences(study: Study, outcome: SetOutcome) -> Markup:
    keys = shown_keys(study, outcome)
    arms = [arm for arm in outcome.arms.values() if arm.differences]
    if not arms:
        return Markup("")
    rows = [(arm_label(study, arm.arm), [_difference(arm, key) for key in keys]) for arm in arms]
    head = ["", *(title_of(k) for k in keys)]
    about = (
        "Small print: 95 % interval over scenarios and seeds; verdict, and p adjusted for the number of arms (Holm). "
        f"Blue: better, orange: worse, the interval excludes 0. {SHARES}"
    )
    return card(f"Differences to {study.against}", table(head, rows), about)


def _difference(arm: ArmScores, key: str) -> str:
    found = arm.differences[key]
    p = f", p {found.p_holm:.2g}" if math.isfinite(found.p_holm) else ""
    return difference_cell(key, found.paired, found.verdict, f"{found.verdict}{p}")


def _costs(result: StudyResult) -> Markup:
    head, *lines = cost_lines(result)
    rows = [(name, [f"<td>{escape(c)}</td>" for c in cells]) for name, *cells in lines]
    about = (
        "Parameters that train, of all; mean wall seconds of the finished runs, resumed parts added up; memory: of the "
        "largest training process, and allocated on the first GPU."
    )
    return card("Cost of a run", table(head, rows), about)


def _about(result: StudyResult) -> Markup:
    study, code = result.study, git_revision()
    plan = study.evaluation
    pairs: dict[str, object] = {
        "Base": " ".join(study.base),
        "Seeds": ", ".join(map(str, study.seeds)),
        "Budget": f"{study.budget.steps} steps, {study.budget.validations} validations",
        "Scored": f"checkpoint {plan.checkpoint}, inputs {plan.inputs}",
        "Changes for evaluation": " ".join(plan.overrides) or "none",
        "Code": f"{code['revision']}{' (with local changes)' if code['dirty'] else ''}",
    }
    for outcome in result.outcomes:
        pairs[f"Contract {outcome.name}"] = f"SHA-256 {outcome.contract['sha256']}"
    pairs |= {f"Scored on {c.path.stem} with": " ".join(c.overrides) for c in plan.contracts if c.overrides}
    return card("How these numbers came about", facts(pairs))
