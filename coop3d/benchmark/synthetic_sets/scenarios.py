"""Hashes of each scenario of a synthetic data set: with them a part of it can be made and verified by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from coop3d.datasets.synthetic import SPLITS, SyntheticConfig, scenario_name
from coop3d.datasets.synthetic.content import Frame, FrameContent, sha256, yaml_digest
from coop3d.files import write_text

_DIGITS = 16  # of a hash that are written down
_UNKNOWN = "-"
_LINE = re.compile(rf"(\w+/\w+) ([0-9a-f]{{{_DIGITS}}}) ([0-9a-f]{{{_DIGITS}}}) ([0-9a-f]{{{_DIGITS}}}|-)")
_HEAD = (
    "# split/scenario, then the first 16 digits of three SHA-256: of its layout, equal on every machine; of the bytes\n"
    "# of its YAML and of its decoded content, equal on one kind of processor. A dash: not made yet.\n"
)


class ScenarioHashes(NamedTuple):
    """Of one scenario, shortened."""

    layout: str  # names, sizes and rounded poses, as of the whole data set
    yaml: str  # bytes of every YAML file
    content: str | None  # pixels, depth, cloud and YAML, decoded, as of the whole; None: not known


def scenarios_of(config: SyntheticConfig, only: Sequence[str] = ()) -> dict[str, tuple[str, int]]:
    """``split/scenario`` -> (split, number), of all scenarios or of some.

    Args:
        config: of the data set.
        only: splits, or scenarios as ``split/scenario``; empty means all.

    Raises:
        ValueError: the data set has no such split or scenario.
    """
    every = {
        f"{split}/{scenario_name(split, index)}": (split, index)
        for split in SPLITS
        for index in range(config.scenarios.get(split, 0))
    }
    unknown = [name for name in only if not any(name in (key, split) for key, (split, _) in every.items())]
    if unknown:
        splits = ", ".join(s for s in SPLITS if config.scenarios.get(s))
        raise ValueError(
            f"{unknown[0]!r} is no part of the data set: expected {splits}, or one such as {next(iter(every))}"
        )
    return {key: (split, i) for key, (split, i) in every.items() if not only or key in only or split in only}


def scenario_key(frame: Frame) -> str:
    """``split/scenario`` of a vehicle-frame."""
    return f"{frame.split}/{frame.scenario}"


def layout_hashes(layout: Mapping[Frame, str], scenarios: Iterable[str]) -> dict[str, str]:
    """Shortened hash of each scenario's lines; a scenario without lines gets the hash of empty text."""
    lines: dict[str, list[str]] = {key: [] for key in scenarios}
    for frame, line in sorted(layout.items()):
        lines.setdefault(scenario_key(frame), []).append(line)
    return {key: sha256(found)[:_DIGITS] for key, found in lines.items()}


def scenario_hashes(
    images_root: Path, layout: Mapping[Frame, str], contents: Mapping[Frame, FrameContent]
) -> dict[str, ScenarioHashes]:
    """Hashes of the scenarios of a layout, reading their YAML; ``contents`` is empty where they are not known."""
    decoded: dict[str, list[str]] = {}
    for frame, content in sorted(contents.items()):
        decoded.setdefault(scenario_key(frame), []).append(f"{frame} {content.digest}")
    return {
        key: ScenarioHashes(
            layout=value,
            yaml=yaml_digest(images_root, key)[:_DIGITS],
            content=sha256(decoded[key])[:_DIGITS] if key in decoded else None,
        )
        for key, value in layout_hashes(layout, ()).items()
    }


def read_hashes(path: Path) -> dict[str, ScenarioHashes]:
    """Hashes of a file of :func:`write_hashes`; empty where there is no file.

    Raises:
        ValueError: a line that is none of them.
    """
    if not path.exists():
        return {}
    out = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{path}, line {number}: is {line[:80]!r}, expected split/scenario and three hashes "
                f"of {_DIGITS} digits (the last may be {_UNKNOWN})"
            )
        key, layout, yaml, content = found.groups()
        out[key] = ScenarioHashes(layout, yaml, None if content == _UNKNOWN else content)
    return out


def write_hashes(path: Path, hashes: Mapping[str, ScenarioHashes]) -> None:
    """Write hashes, one scenario per line; the file's hashes of other scenarios are kept.

    Where ``hashes`` have no content hash of a scenario (only its layout was made) and the file has one for the same
    layout and YAML, the file's is kept.
    """
    before = read_hashes(path)
    for key, found in hashes.items():
        known = before.get(key)
        if found.content is None and known is not None and known[:2] == found[:2]:
            continue
        before[key] = found
    lines = (f"{k} {h.layout} {h.yaml} {h.content or _UNKNOWN}\n" for k, h in sorted(before.items()))
    write_text(path, _HEAD + "".join(lines))
