"""Checks of a composed config before anything is built, whose messages say what to change."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from coop3d.conf.errors import ConfigError, suggest

INPUT_ROOTS = ("opv2v_images_root", "opv2v_depth_root")  # must exist where a dataset reads them
CACHE_ROOTS = ("panorama_cache_root",)  # the only one that must exist where it reads a panorama cache
_WITHOUT = {
    "opv2v_images_root": "machine=demo needs no data",
    "opv2v_depth_root": "Where there are no depth files: null, which takes range from the LiDAR clouds",
    "panorama_cache_root": "scripts/build_panorama_cache.py makes what belongs there; dataset.panoramas=raw needs none",
}


def require_complete(cfg: DictConfig) -> None:
    """Stop at mandatory values left open, before anything is built.

    Raises:
        ConfigError: listing every missing key.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(
            f"No value for {', '.join(missing)}. Give each on the command line, e.g. {missing[0]}=VALUE."
        )


def require_targets(cfg: DictConfig, keys: Sequence[str]) -> None:
    """Check every ``_target_`` under ``keys`` against the signature of what it builds.

    Raises:
        ConfigError: naming the key that no argument takes, and the closest argument.
    """
    for key in keys:
        for path, node in _targets(OmegaConf.select(cfg, key), key):
            _check_target(path, node)


def _targets(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for name in map(str, node):
            if not OmegaConf.is_missing(node, name):
                yield from _targets(node[name], f"{path}.{name}")
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _targets(item, f"{path}.{i}")


def _check_target(path: str, node: DictConfig) -> None:
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:  # import errors of any kind: say which key asked for the import
        raise ConfigError(f"{path}._target_={node['_target_']} cannot be imported: {error}") from error
    parameters = inspect.signature(target).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in map(str, node):
        if name.startswith("_") or name in parameters:
            continue
        raise ConfigError(
            f"{path}.{name}: {node['_target_']} takes no argument '{name}'. "
            f"{suggest(f'{path}.{name}', list(parameters))}"
        )


def build(cfg: DictConfig, key: str) -> Any:
    """Build what the ``_target_`` under ``key`` describes.

    Raises:
        ConfigError: with the key, where the constructor refuses a value or cannot find a file.
    """
    try:
        return hydra.utils.instantiate(OmegaConf.select(cfg, key))
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise ConfigError(f"{key}: {error.__cause__}") from error
        raise


def reads_cache(cfg: DictConfig) -> bool:
    """Whether the dataset reads a panorama cache instead of OPV2V's files."""
    return bool(cfg.dataset.get("panoramas") == "cache")


def require_paths(cfg: DictConfig, how: str = "{key}=/path/to/it") -> None:
    """Check that the data roots which the dataset config reads exist.

    Args:
        cfg: with ``machine`` and ``dataset``.
        how: how a user of this command changes a key.

    Raises:
        ConfigError: naming the config key, the environment variable that sets it, and the missing path.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    read = set(re.findall(r"\$\{machine\.(\w+)\}", str(raw["dataset"])))
    for name in CACHE_ROOTS if reads_cache(cfg) else INPUT_ROOTS:
        value = cfg.machine.get(name)
        if name not in read or value is None or Path(value).is_dir():
            continue
        variables = re.findall(r"\$\{oc\.env:(\w+)", str(raw["machine"][name]))
        variable = f"set the environment variable {' or '.join(variables)}, or " if variables else ""
        raise ConfigError(
            f"machine.{name}={os.path.abspath(value)} does not exist: {variable}pass "
            f"{how.format(key=f'machine.{name}')}. ({_WITHOUT[name]}.)"
        )


def has_key(cfg: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, be its value null."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node[part]
    return True
