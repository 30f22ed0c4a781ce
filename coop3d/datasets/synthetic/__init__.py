"""Procedural towns, traced ray by ray and written as OPV2V.

Inputs: a seed and a few settings. Outputs: the exact file layout of OPV2V plus dense planar depth, or, in memory, a
:class:`Scenario` that answers rays. Everything here speaks UE axes (left-handed: x forward, y right, z up).
"""

from .config import DISTANCES, DOMAIN_NAMES, GENERATOR_VERSION, SPLITS, SyntheticConfig
from .generate import MANIFEST, make_synthetic_opv2v, scenario_name
from .scenario import Scenario, build_scenario

__all__ = [
    "DISTANCES",
    "DOMAIN_NAMES",
    "GENERATOR_VERSION",
    "MANIFEST",
    "SPLITS",
    "Scenario",
    "SyntheticConfig",
    "build_scenario",
    "make_synthetic_opv2v",
    "scenario_name",
]
