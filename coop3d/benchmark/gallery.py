"""An index page of a folder of runs: newest first, each with a picture, its pages and its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2

from coop3d.evaluation.labels import title_of, titles
from coop3d.files import write_text
from coop3d.visualization.arrays import RGB
from coop3d.visualization.documents import document
from coop3d.visualization.pages import Markup, data_uri, escape, format_number

PICTURE_WIDTH = 480  # pixels of a thumbnail
_NUMBER_FILES = ("summary.json", "metrics.json", "*_summary.json")
_GENERATOR = "coop3d gallery"  # as `document` names it
_SHOWN = 60  # files of a kind that one run's card lists
# What a card shows of numbers, in this order: of an evaluation, then of one sample.
_METRICS = {
    **titles(
        "pose/translation_m/median", "pose/rotation_deg/median", "range/abs_rel", "range/delta_125",
        "scale/error/median", "mask/iou",
    ),
    "pose_translation_error_m": "translation [m]",
    "pose_rotation_error_deg": "rotation [deg]",
    "depth_abs_rel": title_of("range/abs_rel"),
    "depth_delta_125": title_of("range/delta_125"),
    "scale_ratio": "predicted / true scale",
    "mask_iou": title_of("mask/iou"),
}  # fmt: skip
_NO_METRICS = ("index", "step", "version")  # numbers that measure nothing
_FALLBACK_METRICS = 8  # numbers shown of a file with none of these keys


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """What a folder of results holds."""

    name: str  # relative to the gallery's folder
    path: Path
    pages: tuple[Path, ...]
    pictures: tuple[Path, ...]
    numbers: tuple[Path, ...]
    changed: float  # seconds since 1970, of the newest of these files


def write_gallery(folder: Path, title: str = "Runs", *, force: bool = False) -> Path:
    """Write ``index.html`` into a folder whose sub-folders are runs; links are relative, thumbnails are inside.

    A run is any sub-folder that holds a page (``.html``), a picture (``.png``) or numbers (``summary.json``,
    ``metrics.json`` where there is no ``summary.json``, ``*_summary.json``). Files that cannot be read are named on
    its card.

    Args:
        folder: of the runs.
        title: of the page.
        force: also replace an ``index.html`` that is no gallery.

    Returns:
        Path of the page; replaced atomically.

    Raises:
        ValueError: there is no such folder, or its ``index.html`` is somebody else's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; a gallery lists the runs below one")
    target = folder / "index.html"
    if not force and target.exists() and not _is_gallery(target):
        raise ValueError(
            f"{target}: is no gallery of coop3d (its head names no generator {_GENERATOR!r}); move it away, or replace "
            "it with --force"
        )
    runs = sorted(find_runs(folder), key=lambda run: (-run.changed, run.name))
    cards = "".join(_card(run, folder) for run in runs)
    nothing = '<p class="quiet">No run here yet: no sub-folder holds a page, a picture or numbers.</p>'
    note = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, newest first"
    page = document(title, note, cards or nothing, kind="gallery")
    return write_text(target, page)


def _is_gallery(page: Path) -> bool:
    """Whether `write_gallery` wrote it: the tag stands at the top of a page."""
    with page.open("rb") as file:
        return f'<meta name="generator" content="{_GENERATOR}">'.encode() in file.read(1000)


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Every direct sub-folder with results; where it has no picture itself, those one level deeper count as its own."""
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        numbers = tuple(dict.fromkeys(f for pattern in _NUMBER_FILES for f in _files(path, pattern)))
        if path / "summary.json" in numbers:  # an evaluation's metrics.json says the same, nested
            numbers = tuple(f for f in numbers if f.name != "metrics.json")
        pages, pictures = tuple(_files(path, "*.html")), tuple(_files(path, "*.png"))
        if not pictures:
            pictures = tuple(_files(path, "*/*.png"))
        files = (*numbers, *pages, *pictures)
        if files:
            yield RunFolder(
                name=path.name,
                path=path,
                pages=pages,
                pictures=pictures,
                numbers=numbers,
                changed=max(f.stat().st_mtime for f in files),
            )


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith("."))


def _card(run: RunFolder, folder: Path) -> Markup:
    when = datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M")
    pages = "".join(f"<li>{_link(page, folder, page.stem)}</li>" for page in run.pages[:_SHOWN])
    if len(run.pages) > _SHOWN:
        pages += f"<li>and {len(run.pages) - _SHOWN} more</li>"
    return Markup(
        f'<article class="card run"><div class="thumb">{_thumbnail(run, folder)}</div>'
        f'<div class="facts"><h2>{escape(run.name)}</h2><p class="quiet">{escape(when)}</p>'
        f'{"".join(_numbers(path) for path in run.numbers[:_SHOWN])}<ul class="pages">{pages}</ul></div></article>'
    )


def _link(target: Path, folder: Path, content: str | Markup) -> Markup:
    relative = quote(target.relative_to(folder).as_posix())
    shown = content if isinstance(content, Markup) else escape(content)
    return Markup(f'<a href="{escape("./" + relative)}">{shown}</a>')


def _thumbnail(run: RunFolder, folder: Path) -> Markup:
    """The first readable picture, renders of clouds first; a click leads to the first page, else to the picture."""
    for path in sorted(run.pictures, key=lambda p: (not p.stem.endswith("_oblique"), p.name)):
        image = _small(path)
        if image is not None:
            picture = Markup(f'<img alt="{escape(path.stem)}" src="{data_uri(image, lossless=False)}">')
            return _link(run.pages[0] if run.pages else path, folder, picture)
    return Markup('<span class="quiet">no picture</span>')


def _small(path: Path) -> RGB | None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        return None
    height = max(1, round(image.shape[0] * PICTURE_WIDTH / image.shape[1]))
    return cv2.resize(image, (PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)[..., ::-1]


def _numbers(path: Path) -> Markup:
    """A file's most telling numbers in one row under its name."""
    try:
        values = _flat_numbers(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        return Markup(f'<p class="quiet">{escape(path.name)} cannot be read: {escape(str(error)[:120])}</p>')
    chosen = {title: values[key] for key, title in _METRICS.items() if key in values}
    if not chosen:
        chosen = dict([(k, v) for k, v in values.items() if k not in _NO_METRICS][:_FALLBACK_METRICS])
    cells = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(format_number(v))}</dd></div>" for k, v in chosen.items()
    )
    return Markup(f"<h3>{escape(path.name)}</h3><dl>{cells or '<div>no numbers</div>'}</dl>")


def _flat_numbers(data: Any) -> Mapping[str, float]:
    """The numbers at the top of a JSON object; ValueError for what is none."""
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, expected an object of names and numbers")
    return {k: v for k, v in data.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
