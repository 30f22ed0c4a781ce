"""Making a standard synthetic data set, and whether a folder holds exactly it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coop3d.benchmark.synthetic_sets.definition import SetError, SyntheticSet
from coop3d.benchmark.synthetic_sets.scenarios import (
    ScenarioHashes,
    layout_hashes,
    scenario_hashes,
    scenario_key,
    scenarios_of,
)
from coop3d.datasets.opv2v import is_layout_only
from coop3d.datasets.synthetic import MANIFEST, make_synthetic_opv2v
from coop3d.datasets.synthetic.content import (
    Frame,
    FrameContent,
    Totals,
    frame_contents,
    planned_layout,
    sha256,
    written_layout,
)
from coop3d.files import write_text

RECORD = "content.json"


@dataclass(frozen=True)
class Verdict:
    """What :func:`verify_set` found; a data set that is not right raises instead."""

    layout_sha256: str
    content_sha256: str | None  # None: only the layout was looked at
    means: dict[str, Totals]
    vehicle_frames: int
    scenarios: dict[str, ScenarioHashes]  # of what was looked at
    other_yaml: tuple[str, ...]  # scenarios whose YAML has other bytes than published
    exact: bool | None  # content as where it was made first; None: nothing to compare with
    agreeing: tuple[str, ...]  # splits whose means were compared, where ``exact`` is False


def make_set(
    wanted: SyntheticSet,
    images_root: Path,
    *,
    only: Sequence[str] = (),
    layout_only: bool = False,
    workers: int = 2,
    progress: bool = True,
) -> Verdict:
    """Make what is missing of a data set, then verify it and record its content in ``images_root/content.json``.

    Depth goes to ``images_root`` with ``_depth`` after its name.

    Args:
        only: make and verify these splits or scenarios (``split/scenario``) alone; empty: all.
        layout_only: make YAML alone, see :func:`make_synthetic_opv2v`.

    Raises:
        ValueError: the folder holds other data, or (`SetError`) what is in it is not the data set.
    """
    make_synthetic_opv2v(
        images_root, depth_root_of(images_root), replace(wanted.config, workers=workers),
        only=list(scenarios_of(wanted.config, only).values()), layout_only=layout_only, progress=progress,
    )  # fmt: skip
    return verify_set(
        wanted, images_root, only=only, layout_only=layout_only, workers=workers, record=not layout_only
    )


def depth_root_of(images_root: Path) -> Path:
    """Where the depth of a data set lies."""
    return images_root.with_name(f"{images_root.name}_depth")


def verify_set(
    wanted: SyntheticSet,
    images_root: Path,
    *,
    only: Sequence[str] = (),
    layout_only: bool = False,
    workers: int = 2,
    record: bool = False,
    watch: Callable[[Iterator], Iterator] = iter,
) -> Verdict:
    """Compare a folder with a definition: settings, layout, then decoded content; every file is read.

    Content is compared with what was recorded when the folder was made, and with the definition: by its hash, and where
    that differs, as on another processor, by the means of each split.

    Args:
        only: look at these splits or scenarios (``split/scenario``) alone; empty: all.
        layout_only: look at no photograph, depth or cloud.
        record: write down the content of what has no record yet.
        watch: wraps the iterator over vehicle-frames, to show progress.

    Raises:
        SetError: naming the first thing that differs.
    """
    chosen = scenarios_of(wanted.config, only)
    _check_settings(wanted, images_root)
    layout = _check_layout(wanted, images_root, chosen)
    contents: dict[Frame, FrameContent] = {}
    digest = None
    if not layout_only:
        _check_marks(images_root, wanted, chosen)
        frames = frame_contents(images_root, depth_root_of(images_root), list(layout), workers)
        contents = dict(watch(frames))
        found = {str(frame): content.digest for frame, content in contents.items()}
        _check_record(images_root / RECORD, found, record)
        digest = sha256(f"{frame} {value}" for frame, value in found.items())
    hashes = scenario_hashes(images_root, layout, contents)
    known = wanted.scenarios
    other_yaml = tuple(k for k, h in hashes.items() if k in known and known[k].yaml != h.yaml)
    means = _means(contents)
    exact = None if digest is None else _is_exact(wanted, chosen, digest, hashes)
    agreeing = () if exact is not False else _check_means(wanted, means, chosen, images_root)
    return Verdict(sha256(layout.values()), digest, means, len(layout), hashes, other_yaml, exact, agreeing)


def _is_all(wanted: SyntheticSet, chosen: Mapping[str, object], split: str | None = None) -> bool:
    """Whether nothing of the data set, or of a split, was left out."""
    return scenarios_of(wanted.config, () if split is None else (split,)).keys() <= chosen.keys()


def _is_exact(
    wanted: SyntheticSet, chosen: Mapping[str, object], digest: str, hashes: Mapping[str, ScenarioHashes]
) -> bool | None:
    if wanted.content_sha256 is not None and _is_all(wanted, chosen):
        return digest == wanted.content_sha256
    known = [wanted.scenarios[k].content if k in wanted.scenarios else None for k in hashes]
    if None in known:
        return None
    return known == [h.content for h in hashes.values()]


def _check_marks(images_root: Path, wanted: SyntheticSet, chosen: Mapping[str, tuple[str, int]]) -> None:
    for split in dict.fromkeys(split for split, _ in chosen.values()):
        if is_layout_only(images_root / split) and _is_all(wanted, chosen, split):
            raise SetError(
                f"{images_root / split}: holds the layout, as it should be, and not all photographs. Make them with "
                "the same command without --verify, or compare the layout alone with --layout-only."
            )


def _check_settings(wanted: SyntheticSet, images_root: Path) -> None:
    path = images_root / MANIFEST
    if not path.exists():
        raise SetError(f"{path} does not exist: {wanted.name} was not made there. Run without --verify.")
    found, expected = json.loads(path.read_text()), {**wanted.config.settings(), "depth": True}
    differing = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    if differing:
        key = differing[0]
        raise SetError(
            f"{path}: {key} is {found.get(key)!r}, {wanted.name} has {expected.get(key)!r}: "
            "the folder holds other data. Choose another one."
        )


def _check_layout(
    wanted: SyntheticSet, images_root: Path, chosen: Mapping[str, tuple[str, int]]
) -> dict[Frame, str]:
    """The layout on disk, which is that of the definition: a whole as published, each scenario as published, or, where
    nothing is, as the settings decide it."""
    found = written_layout(images_root)
    if not _is_all(wanted, chosen):
        found = {frame: line for frame, line in found.items() if scenario_key(frame) in chosen}
    if _is_published(wanted, found, chosen):
        return found
    expected = _planned(wanted, chosen)
    if _is_published(wanted, expected, chosen) is False:
        raise SetError(
            f"{wanted.name}: this version of the generator makes another layout than the definition's "
            f"({sha256(expected.values())[:12]}, expected {(wanted.layout_sha256 or 'that of each scenario')[:12]}). "
            "Use the version that made it."
        )
    for frame in sorted({*found, *expected}):
        if found.get(frame) != expected.get(frame):
            what = "is missing" if frame not in found else "does not belong here" if frame not in expected else (
                f"has the poses {found[frame]!r}, expected {expected[frame]!r}"
            )  # fmt: skip
            raise SetError(
                f"{images_root}/{frame}.yaml {what}. Remove it and run again; what is right is kept."
            )
    return found


def _is_published(
    wanted: SyntheticSet, layout: Mapping[Frame, str], chosen: Mapping[str, object]
) -> bool | None:
    """Whether a layout is the published one; None: none is."""
    if wanted.layout_sha256 is not None and _is_all(wanted, chosen):
        return sha256(layout.values()) == wanted.layout_sha256
    if not chosen.keys() <= wanted.scenarios.keys():
        return None
    return layout_hashes(layout, chosen) == {key: wanted.scenarios[key].layout for key in chosen}


def _planned(wanted: SyntheticSet, chosen: Mapping[str, tuple[str, int]]) -> dict[Frame, str]:
    out: dict[Frame, str] = {}
    for split, index in chosen.values():
        out |= planned_layout(wanted.config, split, index)
    return dict(sorted(out.items()))


def _check_record(path: Path, found: dict[str, str], write: bool) -> None:
    recorded = json.loads(path.read_text())["frames"] if path.exists() else {}
    changed = sorted(k for k, value in found.items() if recorded.get(k, value) != value)
    if changed:
        raise SetError(
            f"{path.parent}: {len(changed)} of {len(found)} vehicle-frames changed since the data were "
            f"made, the first is {changed[0]} (photographs, depth, cloud or YAML). Remove its files and "
            f"{path.name}, and run again."
        )
    if write and not found.keys() <= recorded.keys():
        write_text(path, json.dumps({"frames": {**recorded, **found}}, indent=0) + "\n")


def _means(contents: dict[Frame, FrameContent]) -> dict[str, Totals]:
    splits = sorted({frame.split for frame in contents})
    return {
        split: Totals(*np.mean([c.totals for f, c in contents.items() if f.split == split], axis=0).tolist())
        for split in splits
    }


def _check_means(
    wanted: SyntheticSet, found: dict[str, Totals], chosen: Mapping[str, object], images_root: Path
) -> tuple[str, ...]:
    """Splits that were compared: those that are there in full."""
    splits = tuple(split for split in wanted.means if split in found and _is_all(wanted, chosen, split))
    for split in splits:
        for key, a, b in zip(Totals._fields, found[split], wanted.means[split], strict=True):
            if abs(a - b) > wanted.tolerance * abs(b):
                raise SetError(
                    f"{images_root}/{split}: {key} is {a:.6g} on average, {wanted.name} has {b:.6g}: "
                    "the photographs or their depth are not those of the data set. Remove the folder and make it again."
                )
    return splits
