"""What the doctor hands out: checks with their bands, verdicts, table, JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np


class Measured(NamedTuple):
    """One value measured on one frame, and what the frame's own calibration predicts for it."""

    name: str
    value: float
    about: float = 0.0  # the band of the check is centred here


class Band(NamedTuple):
    """Where a value must lie, how many values become one, and what a value outside means."""

    low: float
    high: float
    unit: str
    reduce: Callable[[Sequence[float]], float]
    hint: str


@dataclass(frozen=True)
class Check:
    """One measured value beside the band it must lie in. ``ok`` None means it could not be measured."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    hint: str
    ok: bool | None

    @property
    def verdict(self) -> str:
        """ok, FAIL or n/a."""
        return "n/a" if self.ok is None else ("ok" if self.ok else "FAIL")


def judge(name: str, band: Band, found: Sequence[Measured]) -> Check:
    """The verdict on all values of one name; NaN values are those that could not be measured."""
    known = [m for m in found if not np.isnan(m.value)]
    about = float(np.median([m.about for m in known or found])) if found else 0.0
    low, high = about + band.low, about + band.high
    if not known:
        return Check(name, float("nan"), low, high, band.unit, band.hint, None)
    value = float(band.reduce([m.value for m in known]))
    return Check(name, value, low, high, band.unit, band.hint, low <= value <= high)


@dataclass(frozen=True)
class Report:
    """All checks of one split."""

    split: str
    counts: dict[str, int]
    checks: tuple[Check, ...]
    unreadable: tuple[str, ...]  # messages of sampled frames that could not be read

    @property
    def ok(self) -> bool:
        """No check failed and every sampled frame was readable."""
        return not self.unreadable and all(c.ok is not False for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN and infinity become None."""
        checks = [{**asdict(c), "value": c.value if np.isfinite(c.value) else None} for c in self.checks]
        return {"split": self.split, "ok": self.ok, "counts": self.counts, "checks": checks,
                "unreadable": list(self.unreadable)}  # fmt: skip

    def to_table(self) -> str:
        """Fixed-width text."""
        lines = [f"{self.split}: " + ", ".join(f"{v} {k}" for k, v in self.counts.items())]
        for c in self.checks:
            band = f"[{c.low:.4g}, {c.high:.4g}] {c.unit}".rstrip()
            value = "-" if np.isnan(c.value) else f"{c.value:.4g}"
            lines.append(f"  {c.verdict:<5}{c.name:<52}{value:>9}   expected {band}")
            if c.ok is False:
                lines.append(f"       {c.hint}")
        lines += [f"  FAIL unreadable: {message}" for message in self.unreadable]
        return "\n".join(lines)
