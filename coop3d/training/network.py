"""From a config to the network that trains: model, fine-tuning preset, and what both will cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from coop3d.conf import ConfigError, Optimizer, TrainParamsConf, build
from coop3d.models import MapAnythingConfig, Preset, from_mapping
from coop3d.models.lora import peft_library
from coop3d.models.presets import parameter_table
from coop3d.training.distributed import Processes
from coop3d.training.muon import is_matrix
from coop3d.training.sampler import BatchSplit
from coop3d.training.step import make_autocast

log = logging.getLogger(__name__)

MAPANYTHING = "coop3d.models.build_model"


def build_network(cfg: DictConfig) -> nn.Module:
    """The model of a config with its preset applied; configs saved before presets existed train everything.

    Raises:
        ConfigError: if either refuses its values.
    """
    model: nn.Module = build(cfg, "model")
    preset = preset_of(cfg)
    if preset is not None:
        try:
            preset.apply(model)
        except ValueError as error:
            raise ConfigError(f"preset={preset.name}: {error}") from error
    return model


def preset_of(cfg: DictConfig) -> Preset | None:
    """The fine-tuning preset of a config, if it has one."""
    return None if cfg.get("preset") is None else build(cfg, "preset")


def one_moment_of(cfg: DictConfig) -> Callable[[Tensor], bool] | None:
    """Of which parameters the optimiser of a config keeps one moment instead of two; None: of none."""
    return is_matrix if cfg.train_params.optimizer is Optimizer.muon else None


def require_adapters(cfg: DictConfig) -> None:
    """A preset with low-rank adapters needs their library; better known before anything trains.

    Raises:
        ConfigError: it is not installed.
    """
    preset = preset_of(cfg)
    if preset is None or preset.lora is None:
        return
    try:
        peft_library()
    except ValueError as error:
        raise ConfigError(f"preset={preset.name}: {error}.") from error


def network_config(cfg: DictConfig) -> MapAnythingConfig | None:
    """The sizes of a `MapAnything`; None for other models.

    Raises:
        ValueError: if a value is refused.
    """
    if cfg.model.get("_target_") != MAPANYTHING:
        return None
    values = cast(dict[str, Any], OmegaConf.to_container(cfg.model, resolve=True))
    del values["_target_"]
    return from_mapping(MapAnythingConfig, values)


def announce_cost(cfg: DictConfig, me: Processes) -> None:
    """Log trainable parameters by sub-module and estimated memory, before anything is allocated.

    Says nothing about models that are no `MapAnything`.
    """
    if not me.is_main or cfg.model.get("_target_") != MAPANYTHING:
        return
    from coop3d.models import memory  # imports a good part of torch's compiler: only where it is used

    try:
        config, preset = network_config(cfg), preset_of(cfg)
        assert config is not None, "its _target_ was looked at above"
        log.info("%s", parameter_table(memory.build_on_meta(config, preset)))
    except ValueError as error:
        raise ConfigError(f"model, preset: {error}") from error
    workload = workload_of(cfg, me, memory)
    if workload is None:
        return
    with may_fail("No estimate of memory"):
        estimate = memory.estimate_memory(config, workload, preset, one_moment_of(cfg))
        log.info("%s", estimate.table(me.world_size, workload))


@contextmanager
def may_fail(what: str) -> Iterator[None]:
    """A forecast that depends on torch's internals must not stop the run; only errors of the config do."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        log.warning("%s (%s: %s).", what, type(error).__name__, error)


def workload_of(cfg: DictConfig, me: Processes, memory: Any) -> Any:
    """The largest micro-batch of a process, where the dataset config says how many views of what size it has."""
    dataset, params = cfg.dataset, OmegaConf.to_object(cfg.train_params)
    assert isinstance(params, TrainParamsConf)
    vehicles = OmegaConf.select(dataset, "train.sampling.vehicles")
    size = [OmegaConf.select(dataset, key) for key in ("camera.width", "camera.height")]
    photographs = size[0] is None
    if photographs:
        size = [dataset.get("view_width"), dataset.get("view_height")]
    cameras = dataset.get("cameras") if photographs else [""]
    if vehicles is None or None in size or OmegaConf.is_config(cameras) is not photographs:
        return None
    views = (vehicles if isinstance(vehicles, int) else max(vehicles)) * len(cameras)
    return memory.Workload(
        views=views,
        width=size[0],
        height=size[1],
        batch=BatchSplit.plan(params.global_batch, me.world_size, params.max_micro_batch).micro_batch,
        bf16=make_autocast(params.precision, me.device) is not nullcontext,
    )
