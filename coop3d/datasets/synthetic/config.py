"""Settings of a synthetic OPV2V, checked when made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

GENERATOR_VERSION = 1
SPLITS = ("train", "validate", "test", "test_culver_city")
DISTANCES = ("as_is", "opv2v")
DOMAIN_NAMES = ("town", "outskirts")


def _default_scenarios() -> dict[str, int]:
    return {"train": 4, "validate": 1, "test": 1, "test_culver_city": 1}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What to make. Everything but ``workers`` decides the bytes on disk.

    Attributes:
        seed: the only source of randomness.
        image_size: (width, height) in pixels; the domain decides the field of view (``town``: 100 degrees across).
        scenarios: scenarios per split; splits never share a town, nor do scenarios.
        frames: instants per scenario, 0.1 s apart.
        vehicles: fewest and most connected vehicles of a scenario, drawn with OPV2V's shares.
        lidar_points: shots per beam and sweep.
        exposure_spread: standard deviation of the cameras' exposure relative to each other (real rigs differ).
        distances: how far apart connected vehicles are. ``as_is``: as the streets give them, mostly below 30 m,
            never above 60. ``opv2v``: the two nearest of each scenario follow OPV2V's table (:mod:`.spacing`), and
            distances and numbers of vehicles are spread evenly over the scenarios, not drawn each on its own.
        domain: ``town``, or ``outskirts``: other houses, streets and textures, haze or low sun, and a rig on a van's
            roof with wider lenses (:mod:`.domain`).
        workers: processes; 1 works in the calling process.
    """

    seed: int = 0
    image_size: tuple[int, int] = (800, 600)
    scenarios: dict[str, int] = field(default_factory=_default_scenarios)
    frames: int = 10
    vehicles: tuple[int, int] = (2, 4)
    lidar_points: int = 1000
    exposure_spread: float = 0.08
    distances: str = "as_is"
    domain: str = "town"
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("image_size", "vehicles"):  # a config file gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        w, h = self.image_size
        if w < 16 or h < 16 or w % 8 or h % 8:
            raise ValueError(
                f"image_size is {w}x{h}, expected both sides to be multiples of 8 and at least 16"
            )
        unknown = sorted(set(self.scenarios) - set(SPLITS))
        if unknown:
            raise ValueError(f"scenarios names unknown splits {unknown}, expected some of {list(SPLITS)}")
        if any(n < 0 for n in self.scenarios.values()) or not any(self.scenarios.values()):
            raise ValueError(f"scenarios is {self.scenarios}, expected counts >= 0 with at least one above 0")
        low, high = self.vehicles
        if not 1 <= low <= high <= 7:
            raise ValueError(f"vehicles is {low}-{high}, expected 1 <= fewest <= most <= 7 as in OPV2V")
        if not 1 <= self.frames <= 300:
            raise ValueError(
                f"frames is {self.frames}, expected 1 to 300: a longer drive would leave the town"
            )
        if self.lidar_points < 8 or self.lidar_points % 8:
            raise ValueError(f"lidar_points is {self.lidar_points}, expected a positive multiple of 8")
        if not 0.0 <= self.exposure_spread <= 0.5:
            raise ValueError(f"exposure_spread is {self.exposure_spread}, expected 0 to 0.5")
        if self.distances not in DISTANCES:
            raise ValueError(f"distances is {self.distances!r}, expected one of {list(DISTANCES)}")
        if self.domain not in DOMAIN_NAMES:
            raise ValueError(f"domain is {self.domain!r}, expected one of {list(DOMAIN_NAMES)}")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")

    def settings(self) -> dict[str, Any]:
        """What decides the bytes on disk, as plain JSON types."""
        out = asdict(self)
        del out["workers"]
        if self.distances == "as_is":
            del out["distances"]  # data made before there was a choice are the same data
        if self.domain == "town":
            del out["domain"]
        out["image_size"], out["vehicles"] = list(self.image_size), list(self.vehicles)
        return {"generator_version": GENERATOR_VERSION, **out}
