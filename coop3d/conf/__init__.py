"""Configs: typed schemas, composition, and checks whose messages say what to change."""

from coop3d.conf.checks import build, has_key, reads_cache, require_complete, require_paths, require_targets
from coop3d.conf.composition import CONFIG_DIR, compose, hydra_main
from coop3d.conf.errors import ConfigError
from coop3d.conf.schemas import (
    BadSamplePolicy,
    DistributedConf,
    MachineConf,
    MetricMode,
    Optimizer,
    Precision,
    PreflightConf,
    Strategy,
    TrainConf,
    TrainParamsConf,
    register_schema,
)

__all__ = [
    "CONFIG_DIR",
    "BadSamplePolicy",
    "ConfigError",
    "DistributedConf",
    "MachineConf",
    "MetricMode",
    "Optimizer",
    "Precision",
    "PreflightConf",
    "Strategy",
    "TrainConf",
    "TrainParamsConf",
    "build",
    "compose",
    "has_key",
    "hydra_main",
    "reads_cache",
    "register_schema",
    "require_complete",
    "require_paths",
    "require_targets",
]
