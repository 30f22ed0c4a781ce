"""What a disturbance is, and where its randomness comes from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from coop3d.types import RigFrame, SampleKey


class Disturbance(ABC):
    """Changes a vehicle's photographs, or the calibration it assumes; never poses of vehicles or depth.

    ``family`` names the kind. Two severities of one family draw the same random numbers for the same vehicle, so
    that differences between severities do not come from the draw.
    """

    family: ClassVar[str]
    per_vehicle: ClassVar[bool] = False  # drawn once per vehicle of a scenario, not anew in each frame
    needs_rig: ClassVar[bool] = False  # changes mounting poses, which single photographs do not have

    @abstractmethod
    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        """The disturbed frame: same pose, same depth, other images or mounting poses."""


def generator(seed: int, family: str, key: SampleKey, *, per_vehicle: bool = False) -> np.random.Generator:
    """Random numbers of one vehicle at one instant (or of one vehicle), whoever asks and in whatever order."""
    name = key._replace(frame="") if per_vehicle else key
    digest = hashlib.sha256(f"{seed}|{family}|{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
