"""Typed schemas of the Hydra configs, and checks whose messages say what to change.

The groups ``machine``, ``train_params`` and ``distributed`` are typed here. ``dataset``, ``model`` and
``loss`` are trees of ``_target_``; their keys are checked against the signature of what they build.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
INPUT_ROOTS = ("opv2v_images_root", "opv2v_depth_root")  # must exist where a dataset reads them
CACHE_ROOTS = ("panorama_cache_root",)  # the only one that must exist where it reads a panorama cache


class ConfigError(ValueError):
    """A config that cannot be used; the message says which key, and what to do."""


class Strategy(Enum):
    """How processes share the work."""

    none = "none"
    ddp = "ddp"  # replicated model, averaged gradients
    fsdp = "fsdp"  # weights, gradients and optimiser state cut over the processes


class Precision(Enum):
    """Arithmetic of the forward pass."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class BadSamplePolicy(Enum):
    """What a sample that cannot be read does to a run."""

    skip = "skip"
    stop = "stop"


class MetricMode(Enum):
    """Whether a smaller or a larger value of a metric is better."""

    min = "min"
    max = "max"


@dataclass
class MachineConf:
    """Where data lie and what the machine can bear."""

    name: str = MISSING
    opv2v_images_root: str = MISSING
    opv2v_depth_root: str | None = None  # None: no dense depth on this machine
    panorama_cache_root: str | None = None  # {split}.h5, read where dataset.panoramas=cache
    experiments_root: str = MISSING
    num_workers: int = 4  # loader processes per training process
    prefetch_batches: int = 2  # per worker
    synthetic: dict[str, Any] | None = None  # a SyntheticConfig: data to make where the roots are absent


@dataclass
class TrainParamsConf:
    """How long, how fast and how carefully to train. Every length is in optimiser steps."""

    epochs: int = MISSING
    steps_per_epoch: int = MISSING
    global_batch: int = MISSING  # samples per optimiser step, over all processes
    max_micro_batch: int = MISSING  # samples per forward pass on one process
    lr: float = MISSING
    seed: int = 0
    encoder_lr_factor: float = 1.0
    min_lr_factor: float = 0.01
    warmup_steps: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    ema_decay: float | None = None  # validate and save a moving average of the weights, too
    teacher: str | None = None  # checkpoint of a frozen model, for losses with a DistillationTerm
    explode_factor: float = 100.0  # stop where a loss exceeds so many times its moving average
    precision: Precision = Precision.auto  # auto: bf16 on a GPU that has it, else fp32
    tf32: bool = True
    distance_weights: list[float] = field(
        default_factory=list
    )  # draws per pass by evaluation's distance buckets
    pad_last: bool = False  # fill the last batch of each view count instead of dropping it
    on_bad_sample: BadSamplePolicy = BadSamplePolicy.skip
    max_bad_samples: int = 20
    log_every_steps: int = 10
    wandb_project: str | None = None  # also send scalars and pictures there; needs pip install wandb
    checkpoint_every_steps: int = 500
    epoch_checkpoints: int = 2  # keep checkpoint-<epoch>.pth of this many epochs
    validation_samples: int = 64
    validation_batch: int = 1
    best_metric: str = "loss"
    best_mode: MetricMode = MetricMode.min

    def __post_init__(self) -> None:
        at_least_one = (
            "epochs", "steps_per_epoch", "global_batch", "max_micro_batch", "log_every_steps",
            "checkpoint_every_steps", "validation_samples", "validation_batch",
        )  # fmt: skip
        for name in at_least_one:
            _check_range(name, getattr(self, name), 1)
        for name in (
            "epoch_checkpoints",
            "warmup_steps",
            "weight_decay",
            "max_bad_samples",
            "encoder_lr_factor",
            "seed",
            "lr",
        ):
            _check_range(name, getattr(self, name), 0)
        _check_range("explode_factor", self.explode_factor, 1)
        if self.clip_norm <= 0:
            raise ConfigError(f"train_params.clip_norm={self.clip_norm} must be positive (inf: never clip).")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"train_params.ema_decay={self.ema_decay} must lie in (0, 1), or be null.")
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"train_params.warmup_steps={self.warmup_steps} is not below epochs * steps_per_epoch "
                f"= {self.total_steps}: the learning rate would never fall."
            )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


@dataclass
class DistributedConf:
    """How processes share the work."""

    strategy: Strategy = MISSING
    device: str = "auto"  # auto, cpu or cuda
    find_unused_parameters: bool = False
    timeout_minutes: int = 60


@dataclass
class PreflightConf:
    """What is checked before anything is built, and whether to wait for busy GPUs."""

    enabled: bool = True
    wait_for_free: float = 0.0  # minutes to wait for room on the GPUs; 0: refuse at once
    poll_seconds: float = 30.0
    need_gib: float | None = None  # per GPU, instead of the estimate
    reserve_gib: float = 1.5  # CUDA context, losses, communication, allocator: what the estimate leaves out


@dataclass
class TrainConf:
    """Root of ``configs/train.yaml``."""

    machine: MachineConf = MISSING
    dataset: dict[str, Any] = MISSING  # nodes train, val, test
    model: dict[str, Any] = MISSING
    preset: dict[str, Any] = MISSING  # which parameters train
    loss: dict[str, Any] = MISSING
    train_params: TrainParamsConf = MISSING
    distributed: DistributedConf = MISSING
    preflight: PreflightConf = field(default_factory=PreflightConf)


@dataclass
class EvaluateConf:
    """Root of ``configs/evaluate.yaml``. Everything else comes from the config saved with the run."""

    checkpoint: Any = MISSING  # a path, or a list of paths: [a.pth,b.pth]
    output_dir: str = MISSING
    split: str = "test"
    max_samples: int | None = None
    frames_json: str | None = None  # a frame contract: exactly its samples, instead of split and max_samples
    vehicles: int | None = None  # with frames_json: the first so many of each sample; 1: single vehicle
    on_missing: str = "stop"  # or skip: frames of the contract that are not on disk
    inputs: str = "images+rays+rig"  # what models see: images | images+rays | images+rays+rig
    baselines: list[str] = field(
        default_factory=lambda: ["reference", "mean", "row", "ground", "classical", "gnss", "truth"]
    )
    baseline_samples: int = 200  # training samples that the trivial baselines are fitted on
    batch: int = 1
    num_workers: int = 2
    scoring_threads: int = 1
    device: str = "auto"
    points: bool = False  # also score point clouds (slower)
    alone: bool = False  # also ask the model about the reference vehicle by itself
    restart: bool = False  # begin again; what is in output_dir is moved aside
    report: bool = True  # report.html and plots/
    scenes: int = 0  # point-cloud pages of so many worst and best samples
    overrides: list[str] = field(
        default_factory=list
    )  # on the saved config, e.g. machine.opv2v_images_root=/x


@dataclass
class RobustnessConf:
    """Root of ``configs/evaluate_robustness.yaml``. Everything else comes from the config saved with the run."""

    checkpoint: str = MISSING
    output_dir: str = MISSING
    disturbances: Any = "all"  # names, see --list: [black_front,jpeg30,rig1deg]
    contract: str | None = None  # a frame contract: exactly its samples, instead of split and max_samples
    split: str = "test"
    max_samples: int | None = None
    on_missing: str = "stop"  # or skip: frames of the contract that are not on disk
    inputs: str = "images+rays+rig"  # what the model sees: images | images+rays | images+rays+rig
    seed: int = 0  # of the disturbances
    batch: int = 1
    num_workers: int = 2
    scoring_threads: int = 1
    device: str = "auto"
    restart: bool = False  # begin again; what is in output_dir is moved aside
    report: bool = True  # report.html and plots/
    overrides: list[str] = field(default_factory=list)  # on the saved config, as in evaluate.yaml


def register_schemas() -> None:
    """Make the schemas known to Hydra under the names that ``configs/*.yaml`` use."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConf)
    store.store(name="evaluate_schema", node=EvaluateConf)
    store.store(name="robustness_schema", node=RobustnessConf)


def hydra_main(
    config_name: str, flags: Sequence[str] = ()
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Like ``hydra.main``, with messages that name the closest key when an override is wrong.

    Args:
        config_name: file under ``configs/``.
        flags: keys that may also be given as ``--like-this VALUE``.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        def main() -> None:
            register_schemas()
            sys.argv[1:] = overrides = [_quoted(a) for a in _without_flags(sys.argv[1:], flags)]
            if not any(o.startswith("-") for o in overrides):  # Hydra's own flags: let Hydra answer
                try:
                    compose(config_name, overrides)
                except ConfigError as error:
                    sys.exit(f"Config error: {error}")
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(task)()

        return main

    return decorate


def _without_flags(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``--like-this VALUE`` and ``--like-this=VALUE`` as ``like_this=VALUE``."""
    spelled = {f"--{key.replace('_', '-')}": key for key in flags}
    found, rest = list[str](), list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in spelled and not equals:
            if not rest:
                sys.exit(f"Config error: {flag} needs a value, as {spelled[flag]}=VALUE does.")
            equals, value = "=", rest.pop(0)
        found.append(f"{spelled.get(flag, flag)}{equals}{value}")
    return found


def _quoted(argument: str) -> str:
    """Hydra's grammar wants quotes around list items that hold a '=': add them to ``overrides=[a.b=c,d=e]``."""
    match = re.fullmatch(r"overrides=\[([^'\"]*)\]", argument)
    if not match or not match[1]:
        return argument
    items = re.split(r",(?=[\w.]+=)", match[1])
    return f"overrides=[{','.join(repr(item) for item in items)}]"


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a config as the command line would.

    Raises:
        ConfigError: with the offending key and the closest existing one.
    """
    try:
        return _compose(config_name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(config_name, overrides, error)) from error


def _compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    register_schemas()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        return hydra.compose(config_name, overrides=list(overrides))


def _explain(config_name: str, overrides: Sequence[str], error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    message = " ".join(str(error).split())
    if str(cause) not in str(error):
        message = f"{message}: {' '.join(str(cause).split())}"
    full_key = getattr(cause, "full_key", None)
    if full_key:
        keys = _sibling_keys(config_name, overrides, full_key)
        if full_key.rpartition(".")[2] not in keys:
            return f"There is no config key '{full_key}'. {_suggest(full_key, keys)}"
    return re.sub(r" (reference_type|object_type)=\S+", "", message)  # the key exists: its value is wrong


def _sibling_keys(config_name: str, overrides: Sequence[str], full_key: str) -> list[str]:
    """Keys beside ``full_key`` in the config composed without the overrides that name it."""
    rest = [o for o in overrides if not o.lstrip("+~").split("=")[0].startswith(full_key)]
    try:
        node: Any = _compose(config_name, rest)
    except (HydraException, OmegaConfBaseException):
        return []
    parent = full_key.rpartition(".")[0]
    node = OmegaConf.select(node, parent) if parent else node
    return [str(k) for k in node] if isinstance(node, DictConfig) else []


def _suggest(full_key: str, keys: Sequence[str]) -> str:
    parent, _, name = full_key.rpartition(".")
    close = difflib.get_close_matches(name, keys, n=1)
    prefix = f"{parent}." if parent else ""
    if close:
        return f"Did you mean '{prefix}{close[0]}'?"
    return f"Keys of '{parent or 'the config'}': {', '.join(sorted(keys))}." if keys else ""


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
            f"{_suggest(f'{path}.{name}', list(parameters))}"
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
        other = (
            "scripts/build_panorama_cache.py makes what belongs there; dataset.panoramas=raw needs none"
            if reads_cache(cfg)
            else "machine=demo needs no data"
        )
        raise ConfigError(
            f"machine.{name}={os.path.abspath(value)} does not exist: {variable}pass "
            f"{how.format(key=f'machine.{name}')}. ({other}.)"
        )


def has_key(cfg: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, be its value null."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node[part]
    return True


def _check_range(name: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"train_params.{name}={value} must be at least {low}.")
