"""A study as text: ``table.txt`` for the console, ``table.md`` for a page of Markdown."""

from __future__ import annotations

import math

from coop3d.benchmark.cells import NOTHING, has_width, number
from coop3d.benchmark.differences import SHARES, difference_text
from coop3d.benchmark.study.outcome import ArmScores, Difference, SetOutcome
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.record import StudyResult
from coop3d.evaluation import aligned_text
from coop3d.evaluation.labels import directed
from coop3d.files import write_text

Lines = list[list[str]]  # the first is the head

LEGEND = (
    "[low, high]: 95 % interval over scenarios and seeds. *: better or worse than the arm compared with, the paired "
    "95 % interval excludes 0; **: also when all arms are looked at together (Holm). (x): not comparable, "
    f"measured on other pixels or another truth. ↑ ↓: which way is better. {SHARES}"
)
COST_HEAD = (
    "trainable", "of", "steps", "samples", "training [s]", "evaluation [s]", "memory [GiB]", "GPU [GiB]",
)  # fmt: skip
MARKS = {"better": "*", "worse": "*", "not comparable": "(x)"}


def write_tables(result: StudyResult) -> str:
    """Write ``table.txt`` and ``table.md``; return the text."""
    text = study_text(result)
    write_text(result.folder / "table.txt", text)
    write_text(result.folder / "table.md", study_markdown(result))
    return text


def study_text(result: StudyResult) -> str:
    """Everything a console should show."""
    parts = [title(result.study)]
    if len(result.outcomes) > 1:
        parts += [overview_title(result.study), aligned_text(overview_lines(result))]
    for outcome in result.outcomes:
        parts += [set_title(outcome), aligned_text(score_lines(result.study, outcome))]
        if any(arm.differences for arm in outcome.arms.values()):
            parts += [
                f"Differences to {result.study.against}",
                aligned_text(difference_lines(result.study, outcome)),
            ]
        parts.append("\n".join([LEGEND, *(f"! {w}" for w in outcome.warnings)]))
    parts += ["Cost of a run", aligned_text(cost_lines(result))]
    if result.failures:
        parts.append("\n".join(["FAILED", *result.failures]))
    return "\n\n".join(parts) + "\n"


def study_markdown(result: StudyResult) -> str:
    """The same for Markdown."""
    parts = [f"# {_md(result.study.name)}", _md(title(result.study))]
    if len(result.outcomes) > 1:
        parts += [f"## {_md(overview_title(result.study))}", _piped(overview_lines(result))]
    for outcome in result.outcomes:
        parts += [f"## {_md(set_title(outcome))}", _piped(score_lines(result.study, outcome))]
        if any(arm.differences for arm in outcome.arms.values()):
            lines = difference_lines(result.study, outcome)
            parts += [f"### Differences to {_md(result.study.against)}", _piped(lines)]
        parts.append("\n".join([_md(LEGEND), "", *(f"- **{_md(w)}**" for w in outcome.warnings)]))
    notes = [f"- `{arm.name}`: {_md(arm.note)}" for arm in result.study.arms.values() if arm.note]
    parts += ["## Cost of a run", _piped(cost_lines(result))]
    parts += ["## Arms", "\n".join(notes)] if notes else []
    if result.failures:
        parts += ["## Failed", "\n".join(f"- {_md(f)}" for f in result.failures)]
    return "\n\n".join(parts) + "\n"


def title(study: Study) -> str:
    """Name, budget and seeds in a line."""
    seeds = f"seed {study.seeds[0]}" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    return f"{study.name}: {len(study.arms)} arms, {seeds}, {study.budget.steps} steps each"


def set_title(outcome: SetOutcome) -> str:
    """What was scored."""
    contract = outcome.contract
    return f"{outcome.name}: {contract['samples']} samples of {contract['split']}, {str(contract['sha256'])[:12]}"


def arm_label(study: Study, arm: str) -> str:
    """The arm's name, marked where its budget is its own."""
    return f"{arm} (own budget)" if study.arms[arm].own_budget else arm


def shown_keys(study: Study, outcome: SetOutcome) -> list[str]:
    """The study's scores that have a number here."""
    return [key for key in study.scores if key in outcome.keys]


def score_lines(study: Study, outcome: SetOutcome) -> Lines:
    """An arm per line: mean over seeds with interval."""
    keys = shown_keys(study, outcome)
    lines = [["", "seeds", *map(directed, keys)]]
    for arm in outcome.arms.values():
        cells = [_value(arm, key) for key in keys]
        lines.append([arm_label(study, arm.arm), str(len(arm.seeds)), *cells])
    return lines


def difference_lines(study: Study, outcome: SetOutcome) -> Lines:
    """An arm per line: paired difference with interval and mark."""
    keys = shown_keys(study, outcome)
    lines = [["", *map(directed, keys)]]
    for arm in outcome.arms.values():
        if arm.differences:
            lines.append([arm_label(study, arm.arm), *(marked(key, arm.differences[key]) for key in keys)])
    return lines


def cost_lines(result: StudyResult) -> Lines:
    """An arm per line: what its runs took."""
    lines = [["", *COST_HEAD]]
    for arm in result.study.arms:
        cost = result.cost(arm)
        if cost is None:
            continue
        numbers = (cost.train_seconds, cost.evaluate_seconds, cost.peak_memory_gib, cost.gpu_peak_gib)
        cells = [f"{n:.4g}" if math.isfinite(n) else NOTHING for n in numbers]
        counts = [NOTHING if n is None else f"{n:,}" for n in (cost.trainable, cost.parameters)]
        counts += [str(cost.steps), str(cost.samples)]
        lines.append([arm_label(result.study, arm), *counts, *cells])
    return lines


def overview_lines(result: StudyResult) -> Lines:
    """An arm per line: the study's first score on each set of samples, and its difference to the arm compared with."""
    key = result.study.scores[0]
    lines = [["", *(text for o in result.outcomes for text in (o.name, "difference"))]]
    for arm in result.study.arms:
        cells = []
        for outcome in result.outcomes:
            scored = outcome.arms.get(arm) if key in outcome.keys else None
            found = None if scored is None else scored.differences.get(key)
            cells += [NOTHING if scored is None else _value(scored, key)]
            cells += [NOTHING if found is None else marked(key, found)]
        lines.append([arm_label(result.study, arm), *cells])
    return lines


def overview_title(study: Study) -> str:
    """Above :func:`overview_lines`."""
    return f"{directed(study.scores[0])} on each set of samples"


def marked(key: str, found: Difference) -> str:
    """A difference with sign, interval and the marks of `LEGEND`."""
    mark = MARKS.get(found.verdict, "") * (2 if found.survives_holm else 1)
    return difference_text(key, found.paired, mark)


def _value(arm: ArmScores, key: str) -> str:
    interval = arm.intervals[key]
    text = number(key, interval.value)
    if not has_width(interval):
        return text
    return f"{text} [{number(key, interval.low)}, {number(key, interval.high)}]"


def _piped(lines: Lines) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    rows = [[_md(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _md(text: str) -> str:
    """Text that Markdown shows as it is, inside tables, too."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text
