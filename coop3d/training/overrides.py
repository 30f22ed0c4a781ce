"""Changes of a config that was saved with a run, as the command line spells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from coop3d.conf import CONFIG_DIR, ConfigError, compose, has_key
from coop3d.conf.errors import suggest


def overridden(saved: Mapping[Any, Any] | DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A saved config with changes, one after another; what refers to a changed key follows it.

    ``machine=local3090`` replaces the section by ``configs/machine/local3090.yaml``, as it does for training.

    Raises:
        ConfigError: an override names no key of it, or gives a section a value that is no file of its group.
    """
    config = OmegaConf.create(dict(saved)) if not isinstance(saved, DictConfig) else saved.copy()
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ConfigError(f"overrides: {override!r} is not key=value.")
        if not has_key(config, key):
            raise ConfigError(
                f"overrides: the config saved with the run has no key {key!r}. {_nearest(config, key)}"
            )
        change = OmegaConf.from_dotlist([override])
        value = OmegaConf.select(change, key)
        if (
            value is None
            or OmegaConf.is_config(value)
            or not OmegaConf.is_dict(OmegaConf.select(config, key))
        ):
            config = cast(DictConfig, OmegaConf.merge(config, change))
        else:
            config[key] = _group(config, key, str(value))
    return config


def _nearest(config: DictConfig, key: str) -> str:
    """A hint for the first part of the key that does not exist."""
    node, known = config, list[str]()
    for part in key.split("."):
        known.append(part)
        if not isinstance(node, DictConfig) or part not in node:
            break
        node = node[part]
    return suggest(".".join(known), list(map(str, node))) if isinstance(node, DictConfig) else ""


def _group(config: DictConfig, key: str, name: str) -> DictConfig:
    """The section that a file of a config group describes."""
    files = sorted(p.stem for p in (CONFIG_DIR / key).glob("*.yaml")) if "." not in key else []
    if not files:
        keys = ", ".join(map(str, OmegaConf.select(config, key)))
        raise ConfigError(
            f"overrides: {key}={name}, but {key} is a section, with the keys {keys}; change one of them: "
            f"{key}.NAME=VALUE."
        )
    if name not in files:
        raise ConfigError(
            f"overrides: {key}={name} is no file of {CONFIG_DIR / key}, which has {', '.join(files)}."
        )
    section = OmegaConf.to_container(
        compose("train", [f"{key}={name}"])[key], resolve=False, enum_to_str=True
    )
    return cast(DictConfig, OmegaConf.create(section))
