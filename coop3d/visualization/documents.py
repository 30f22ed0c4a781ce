"""Parts of pages that are read rather than turned: the frame, cards, tables. Everything that is data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coop3d.visualization.pages import Markup, escape, page


def document(title: str, note: str, body: str, kind: str = "report") -> Markup:
    """A whole page in the look of the other pages; needs no other file and no network.

    Args:
        title, note: text.
        body: HTML.
        kind: the stylesheet ``assets/{kind}.css`` and the class of ``<main>``; the generator is ``coop3d {kind}``.
    """
    content = f'<main class="{kind}">{body}</main>'
    scripts = ("common.js", "document.js")
    return page(title, note, content, (f"{kind}.css",), scripts, generator=f"coop3d {kind}")


def card(title: str, content: str, about: str = "") -> Markup:
    """A titled box; ``content`` is HTML, the rest is text."""
    quiet = f'<p class="quiet">{escape(about)}</p>' if about else ""
    return Markup(f'<section class="card block"><h2>{escape(title)}</h2>{quiet}{content}</section>')


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names and values, one line each."""
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())
    return Markup(f'<dl class="facts">{lines}</dl>')


def table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], classes: Sequence[str] = ()
) -> Markup:
    """Rows of (label, cells); labels and head are text, cells are ``<td>`` elements already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    kinds = classes or [""] * len(rows)
    lines = "".join(
        f'<tr class="{kind}"><th>{escape(label)}</th>{"".join(cells)}</tr>'
        for (label, cells), kind in zip(rows, kinds, strict=True)
    )
    return Markup(
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
