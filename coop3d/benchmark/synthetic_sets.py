"""Standard synthetic data sets: what they are called, how they are made, and whether a folder holds exactly them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coop3d.conf import CONFIG_DIR
from coop3d.datasets.synthetic import MANIFEST, SyntheticConfig, make_synthetic_opv2v
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
_FOLDERS = {"definition": "benchmark", "settings": "synthetic"}
_KEYS = {"name", "layout_sha256", "content_sha256", "content_made_with", "means", "tolerance", "contracts"}


class SetError(ValueError):
    """A folder that does not hold the data set, or a definition that says nothing usable."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """A definition, as in ``configs/benchmark``.

    Attributes:
        name: of the data set and of its files.
        config: settings of the generator.
        layout_sha256: of the layout, equal on every machine; None: not fixed, the settings decide it (a slice).
        content_sha256: of the decoded content where it was made first; equal on one kind of processor.
        means: per split; equal on every machine within ``tolerance``.
        tolerance: how far a mean may be off, relative to the mean.
        contracts: names in ``configs/contracts`` of what is scored.
    """

    name: str
    config: SyntheticConfig
    layout_sha256: str | None = None
    content_sha256: str | None = None
    means: dict[str, Totals] = field(default_factory=dict)
    tolerance: float = 0.0
    contracts: tuple[str, ...] = ()

    def slice(self, towns: int) -> SyntheticSet:
        """The first towns of each split, as another data set: they are the same as in the whole, fewer."""
        if towns < 1:
            raise SetError(f"{self.name}: towns is {towns}, expected at least 1")
        scenarios = {split: min(n, towns) for split, n in self.config.scenarios.items()}
        if scenarios == self.config.scenarios:
            return self
        return SyntheticSet(
            name=f"{self.name}.first{towns}", config=replace(self.config, scenarios=scenarios)
        )


@dataclass(frozen=True)
class Verdict:
    """What :func:`verify_set` found; a data set that is not right raises instead."""

    layout_sha256: str
    content_sha256: str
    means: dict[str, Totals]
    vehicle_frames: int
    exact: bool | None  # content as where it was made first; None: nothing to compare with


def set_names() -> list[str]:
    """Names there are."""
    return sorted(p.stem for p in (CONFIG_DIR / _FOLDERS["definition"]).glob("*.yaml"))


def load_set(name: str) -> SyntheticSet:
    """Read a definition and its settings.

    Raises:
        SetError: there is no such data set, or its files have unknown or missing keys.
    """
    if name not in set_names():
        raise SetError(f"{name!r} is no data set; there are {', '.join(set_names())}")
    path = CONFIG_DIR / _FOLDERS["definition"] / f"{name}.yaml"
    found = _mapping(path)
    if set(found) != _KEYS:
        raise SetError(f"{path}: keys are {sorted(found)}, expected {sorted(_KEYS)}")
    settings = _mapping(CONFIG_DIR / _FOLDERS["settings"] / f"{name}.yaml")
    plain: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if not k.startswith("_")
    }
    return SyntheticSet(
        name=found["name"], config=SyntheticConfig(**plain), layout_sha256=found["layout_sha256"],
        content_sha256=found["content_sha256"], tolerance=float(found["tolerance"]),
        means={split: Totals(**values) for split, values in (found["means"] or {}).items()},
        contracts=tuple(found["contracts"]),
    )  # fmt: skip


def _mapping(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise SetError(f"{path}: holds a {type(found).__name__}, expected a mapping")
    return found


def make_set(wanted: SyntheticSet, images_root: Path, *, workers: int = 2, progress: bool = True) -> Verdict:
    """Make what is missing of a data set, then verify it and record its content in ``images_root/content.json``.

    Depth goes to ``images_root`` with ``_depth`` after its name.

    Raises:
        ValueError: the folder holds other data, or (`SetError`) what is in it is not the data set.
    """
    make_synthetic_opv2v(
        images_root, depth_root_of(images_root), replace(wanted.config, workers=workers), progress=progress
    )
    return verify_set(wanted, images_root, workers=workers, record=True)


def depth_root_of(images_root: Path) -> Path:
    """Where the depth of a data set lies."""
    return images_root.with_name(f"{images_root.name}_depth")


def verify_set(
    wanted: SyntheticSet,
    images_root: Path,
    *,
    workers: int = 2,
    record: bool = False,
    watch: Callable[[Iterator], Iterator] = iter,
) -> Verdict:
    """Compare a folder with a definition: settings, layout, then decoded content; every file is read.

    Content is compared with what was recorded when the folder was made, and with the definition: by its hash, and where
    that differs, as on another processor, by the means of each split.

    Args:
        record: write the record where there is none.
        watch: wraps the iterator over vehicle-frames, to show progress.

    Raises:
        SetError: naming the first thing that differs.
    """
    _check_settings(wanted, images_root)
    layout = _check_layout(wanted, images_root)
    frames = frame_contents(images_root, depth_root_of(images_root), list(layout), workers)
    contents: dict[Frame, FrameContent] = dict(watch(frames))
    found = {str(frame): content.digest for frame, content in contents.items()}
    _check_record(images_root / RECORD, found, record)
    digest = sha256(f"{frame} {value}" for frame, value in found.items())
    means = _means(contents)
    exact = None if wanted.content_sha256 is None else digest == wanted.content_sha256
    if exact is False:
        _check_means(wanted, means, images_root)
    return Verdict(sha256(layout.values()), digest, means, len(layout), exact)


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


def _check_layout(wanted: SyntheticSet, images_root: Path) -> dict[Frame, str]:
    found = written_layout(images_root)
    if wanted.layout_sha256 is not None and sha256(found.values()) == wanted.layout_sha256:
        return found
    expected = expected_layout(wanted)
    if wanted.layout_sha256 is not None and sha256(expected.values()) != wanted.layout_sha256:
        raise SetError(
            f"{wanted.name}: this version of the generator makes another layout than the definition's "
            f"({sha256(expected.values())[:12]}, expected {wanted.layout_sha256[:12]}). Use the version that made it."
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


def expected_layout(wanted: SyntheticSet) -> dict[Frame, str]:
    """Layout of a data set as its settings decide it: nothing is traced, a town takes a tenth of a second."""
    out: dict[Frame, str] = {}
    for split, n in wanted.config.scenarios.items():
        for index in range(n):
            out |= planned_layout(wanted.config, split, index)
    return dict(sorted(out.items()))


def _check_record(path: Path, found: dict[str, str], write: bool) -> None:
    if not path.exists():
        if write:
            write_text(path, json.dumps({"frames": found}, indent=0) + "\n")
        return
    recorded = json.loads(path.read_text())["frames"]
    changed = sorted(k for k in {*found, *recorded} if found.get(k) != recorded.get(k))
    if changed:
        raise SetError(
            f"{path.parent}: {len(changed)} of {len(recorded)} vehicle-frames changed since the data were "
            f"made, the first is {changed[0]} (photographs, depth, cloud or YAML). Remove its files and "
            f"{path.name}, and run again."
        )


def _means(contents: dict[Frame, FrameContent]) -> dict[str, Totals]:
    splits = sorted({frame.split for frame in contents})
    return {
        split: Totals(*np.mean([c.totals for f, c in contents.items() if f.split == split], axis=0).tolist())
        for split in splits
    }


def _check_means(wanted: SyntheticSet, found: dict[str, Totals], images_root: Path) -> None:
    for split, expected in wanted.means.items():
        for key, a, b in zip(Totals._fields, found[split], expected, strict=True):
            if abs(a - b) > wanted.tolerance * abs(b):
                raise SetError(
                    f"{images_root}/{split}: {key} is {a:.6g} on average, {wanted.name} has {b:.6g}: "
                    "the photographs or their depth are not those of the data set. Remove the folder and make it again."
                )
