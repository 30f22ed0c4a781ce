"""Files of one group of ``configs/`` by themselves."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from coop3d.conf import CONFIG_DIR


def composed(group: str, name: str, *overrides: str) -> DictConfig:
    """``configs/group/name.yaml`` with what it includes."""
    with initialize_config_dir(str(CONFIG_DIR / group), version_base="1.3"):
        return compose(name, overrides=list(overrides))
