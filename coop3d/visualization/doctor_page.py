"""The doctor's report as a page: per split a table of checks, each value drawn on its band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coop3d.files import write_text
from coop3d.visualization.documents import card, document, table
from coop3d.visualization.pages import Markup, escape, format_number

_VERDICT = {True: "ok", False: "FAIL", None: "n/a"}


def write_doctor_html(path: Path, reports: Sequence[Mapping[str, Any]], note: str = "") -> Path:
    """Write the page of all splits.

    Args:
        path: of the page; replaced atomically.
        reports: `coop3d.datasets.doctor`'s reports as plain values (``Report.to_json``).
        note: a line under the title.
    """
    failed = sum(check["ok"] is False for report in reports for check in report["checks"])
    failed += sum(len(report["unreadable"]) for report in reports)
    title = "Data: every check holds" if not failed else f"Data: {failed} failed"
    body = "".join(_split(report) for report in reports)
    write_text(path, document(title, note, body))
    return path


def _split(report: Mapping[str, Any]) -> Markup:
    checks = report["checks"]
    rows = [(check["name"], _cells(check)) for check in checks]
    classes = ["fail" if c["ok"] is False else "other" if c["ok"] is None else "" for c in checks]
    head = ["", "verdict", "measured", "expected", "where in its band"]
    unreadable = "".join(f'<p class="warning">{escape(message)}</p>' for message in report["unreadable"])
    counts = ", ".join(f"{count} {name}" for name, count in report["counts"].items())
    return card(report["split"], unreadable + table(head, rows, classes), counts)


def _cells(check: Mapping[str, Any]) -> list[str]:
    hint = f"<small>{escape(check['hint'])}</small>" if check["ok"] is False else ""
    value = "–" if check["value"] is None else format_number(float(check["value"]))
    band = f"{format_number(float(check['low']))} to {format_number(float(check['high']))} {check['unit']}"
    return [
        f"<td>{_VERDICT[check['ok']]}{hint}</td>",
        f"<td>{escape(value)}</td>",
        f"<td>{escape(band.rstrip())}</td>",
        f"<td>{_gauge(check)}</td>",
    ]


def _gauge(check: Mapping[str, Any]) -> Markup:
    """The band as a bar with as much again on both sides, the value as a mark, outside values at the end."""
    value, low, high = check["value"], check["low"], check["high"]
    if value is None or not low < high:
        return Markup("")
    place = min(max((value - low) / (high - low), -0.5), 1.5) + 0.5
    return Markup(
        '<svg class="gauge" viewBox="0 0 200 12" role="img" aria-label="value in its band">'
        '<rect x="0" y="5" width="200" height="2"/><rect class="band" x="50" y="2" width="100" height="8" rx="2"/>'
        f'<rect class="mark" x="{100 * place - 1.5:.1f}" y="0" width="3" height="12" rx="1"/></svg>'
    )
