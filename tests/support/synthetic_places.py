"""Where connected vehicles of a synthetic scenario stand, without a town built."""

from __future__ import annotations

import numpy as np
from numpy.random import SeedSequence, default_rng

from coop3d.datasets.synthetic.config import SPLITS
from coop3d.datasets.synthetic.domain import DOMAINS
from coop3d.datasets.synthetic.scenario import drive, plan_scenario
from coop3d.datasets.synthetic.town import town_plan
from coop3d.datasets.synthetic.traffic import drive_poses


def connected_places(
    seed: int, split: str, index: int, *, frames: int, vehicles: tuple[int, int], distances: str = "as_is"
) -> np.ndarray:
    """[frames, n, 3] where the connected vehicles of ``build_scenario`` are (world, m)."""
    plan = plan_scenario(seed, split, index, vehicles, distances)
    town = town_plan(default_rng(SeedSequence((seed, SPLITS.index(split), index, 2))), DOMAINS["town"])
    drivers, agents = drive(seed, split, index, plan, town, frames)
    return np.stack([drive_poses(town.layout, d)[:frames, :3, 3] for d in drivers if d.id in agents], axis=1)
