"""Disturbances by name: a family, and how strong."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coop3d.conf import ConfigError
from coop3d.datasets.disturb import (
    Black,
    Defocus,
    Disturbance,
    Exposure,
    Gamma,
    Jpeg,
    Motion,
    Noise,
    Rain,
    RigPosition,
    RigRotation,
    WhiteBalance,
)
from coop3d.datasets.disturb.dataset import TICK_MS

ALL = "all"
SIGHT = "sight"
MOST_VEHICLES = 7


@dataclass(frozen=True)
class Family:
    """One kind of disturbance.

    Attributes:
        name: what names begin with.
        unit: of the severity, in tables; ``suffix``: the same in names.
        severities: the usual ones, by growing harm.
        about: what is done, in one line.
        make: severity to what changes the photographs or the rig; None: a choice of other frames or vehicles.
    """

    name: str
    unit: str
    suffix: str
    severities: tuple[float, ...]
    about: str
    make: Callable[[float], Disturbance] | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table: a disturbance with its severity."""

    name: str
    family: str
    severity: float
    unit: str
    about: str
    disturbance: Disturbance | None = None


FAMILIES = (
    Family("exposure", "stops", "", (0.5, 1, 2), "light of the four cameras times 2^u, u from -s to s", Exposure),
    Family("gamma", "factor", "", (1.25, 1.5), "tone curves of the cameras: levels to the power s^u", Gamma),
    Family("white_balance", "stops", "", (0.25, 0.5), "red times 2^u and blue times 2^-u per camera", WhiteBalance),
    Family("rain", "%", "", (25, 50, 100), "streaks and an even grey veil (not thicker with distance)", Rain),
    Family("defocus", "px of 800", "", (1, 2, 4), "every photograph out of focus: a disc of radius s", Defocus),
    Family("motion", "px of 800", "", (4, 8, 16), "horizontal motion blur of length s", Motion),
    Family("jpeg", "quality", "", (80, 50, 30, 10), "photographs compressed", lambda s: Jpeg(int(s))),
    Family("noise", "levels", "", (5, 10, 20), "sensor noise of deviation s at mid grey", Noise),
    Family("rig", "deg", "deg", (0.5, 1, 2), "each camera believed turned by s about a random axis", RigRotation),
    Family("position", "m", "m", (0.1,), "each camera believed s away in a random direction", RigPosition),
    Family("sync", "ms", "ms", (100,), "photographs of other vehicles s old, targets of the present"),
    Family("vehicles", "vehicles", "", (2, 3, 4, 5, 6, 7), "s vehicles: cut, or joined by the nearest others"),
)  # fmt: skip
SIDES = ("front", "right", "left", "back", "any")
SIGHT_ABOUT = "no disturbance: other vehicles by the share of points that both they and the reference see"


def usual_names() -> tuple[str, ...]:
    """What ``all`` stands for, in the table's order."""
    black = tuple(f"black_{side}" for side in SIDES)
    graded = tuple(f"{f.name}{s:g}{f.suffix}" for f in FAMILIES for s in f.severities)
    return (*black, *graded, SIGHT)


def cases_of(names: str | Sequence[str]) -> tuple[Case, ...]:
    """The disturbances that names stand for, each once; ``all`` (or nothing) for the usual ones.

    Raises:
        ConfigError: a name is unknown, or its severity cannot be.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    expanded = [n for name in wanted or [ALL] for n in (usual_names() if name == ALL else (name,))]
    return tuple({case.name: case for case in map(_case, expanded)}.values())


def _case(name: str) -> Case:
    if name == SIGHT:
        return Case(SIGHT, SIGHT, 0.0, "", SIGHT_ABOUT)
    if name.startswith("black_") and (side := name.removeprefix("black_")) in SIDES:
        which = "one camera, drawn per vehicle and instant," if side == "any" else f"the {side} camera"
        return Case(name, "black", 1.0, "camera", f"{which} black", Black(side))
    for family in FAMILIES:
        match = re.fullmatch(rf"{family.name}(\d+\.?\d*){family.suffix}", name)
        if match:
            return _graded(name, family, float(match[1]))
    families = ", ".join(f"{f.name}<{f.unit}>{f.suffix}" for f in FAMILIES)
    raise ConfigError(
        f"disturbances: {name!r} is unknown; expected {ALL}, {SIGHT}, black_({'|'.join(SIDES)}), or one of {families} "
        "with a number, e.g. jpeg30 or rig1deg. --list prints the usual ones."
    )


def _graded(name: str, family: Family, severity: float) -> Case:
    if severity <= 0:
        raise ConfigError(f"disturbances: {name!r}: a severity of 0 disturbs nothing")
    if family.name in ("vehicles", "jpeg") and severity != int(severity):
        raise ConfigError(f"disturbances: {name!r}: {family.unit} must be a whole number")
    if family.name == "vehicles" and not 2 <= severity <= MOST_VEHICLES:
        raise ConfigError(f"disturbances: {name!r}: expected 2 to {MOST_VEHICLES} vehicles")
    if family.name == "sync" and severity % TICK_MS:
        raise ConfigError(
            f"disturbances: {name!r}: expected a multiple of {TICK_MS} ms; frames are 100 ms apart"
        )
    try:
        disturbance = None if family.make is None else family.make(severity)
    except ValueError as error:
        raise ConfigError(f"disturbances: {name!r}: {error}") from error
    return Case(name, family.name, severity, family.unit, family.about, disturbance)


def listing() -> str:
    """The usual names with what they do, a line each."""
    cases = cases_of(ALL)
    width = max(len(c.name) for c in cases)
    lines = [f"{c.name.ljust(width)}  {c.about}" for c in cases]
    return "\n".join([*lines, "", "Other severities by their number: jpeg42, rig1.5deg, noise8."])
