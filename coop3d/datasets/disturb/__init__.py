"""Disturbed inputs beside undisturbed targets: photographs, beliefs about the rig, and photographs that come late."""

from coop3d.datasets.disturb.base import Disturbance, generator
from coop3d.datasets.disturb.colours import (
    Black,
    Exposure,
    Gamma,
    WhiteBalance,
)
from coop3d.datasets.disturb.dataset import DelayedDataset, DisturbedDataset, obstacle
from coop3d.datasets.disturb.photographs import Defocus, Jpeg, Motion, Noise, Rain
from coop3d.datasets.disturb.rigs import RigPosition, RigRotation

__all__ = [
    "Black",
    "Defocus",
    "DelayedDataset",
    "Disturbance",
    "DisturbedDataset",
    "Exposure",
    "Gamma",
    "Jpeg",
    "Motion",
    "Noise",
    "Rain",
    "RigPosition",
    "RigRotation",
    "WhiteBalance",
    "generator",
    "obstacle",
]
