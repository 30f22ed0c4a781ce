"""Standard synthetic data sets: what they are called, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from coop3d.benchmark.synthetic_sets.scenarios import ScenarioHashes, read_hashes, scenarios_of
from coop3d.conf import CONFIG_DIR
from coop3d.datasets.synthetic import SyntheticConfig
from coop3d.datasets.synthetic.content import Totals

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
        scenarios: hashes of each scenario, by ``split/scenario``; empty: not known.
    """

    name: str
    config: SyntheticConfig
    layout_sha256: str | None = None
    content_sha256: str | None = None
    means: dict[str, Totals] = field(default_factory=dict)
    tolerance: float = 0.0
    contracts: tuple[str, ...] = ()
    scenarios: dict[str, ScenarioHashes] = field(default_factory=dict)

    def slice(self, towns: int) -> SyntheticSet:
        """The first towns of each split, as another data set: they are the same as in the whole, fewer."""
        if towns < 1:
            raise SetError(f"{self.name}: towns is {towns}, expected at least 1")
        scenarios = {split: min(n, towns) for split, n in self.config.scenarios.items()}
        if scenarios == self.config.scenarios:
            return self
        config = replace(self.config, scenarios=scenarios)
        known = {key: self.scenarios[key] for key in scenarios_of(config) if key in self.scenarios}
        return SyntheticSet(name=f"{self.name}.first{towns}", config=config, scenarios=known)


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
        contracts=tuple(found["contracts"]), scenarios=read_hashes(path.with_suffix(".scenarios.txt")),
    )  # fmt: skip


def _mapping(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise SetError(f"{path}: holds a {type(found).__name__}, expected a mapping")
    return found
