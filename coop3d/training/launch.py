"""From a composed config to a finished run: build everything, check everything, then train."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from coop3d.conf import (
    ConfigError,
    MachineConf,
    TrainParamsConf,
    build,
    reads_cache,
    require_complete,
    require_paths,
    require_targets,
)
from coop3d.datasets import DataError, collate_coop
from coop3d.training.checkpoint import CheckpointError
from coop3d.training.data import BadSamplesError, SampleError
from coop3d.training.distributed import Processes, processes, seed_all
from coop3d.training.run_log import describe_environment, setup_logging, write_run_description
from coop3d.training.step import NonFiniteError
from coop3d.training.trainer import Outcome, Trainer, TrainingTask
from coop3d.training.validation import LoaderOptions

if TYPE_CHECKING:
    from coop3d.datasets.synthetic import SyntheticConfig

log = logging.getLogger(__name__)

ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))
EXPECTED_ERRORS = (ConfigError, DataError, CheckpointError, SampleError, BadSamplesError, NonFiniteError)


def train_from_config(cfg: DictConfig) -> Outcome:
    """Train what a config composed from ``configs/train.yaml`` describes, in Hydra's run directory.

    Errors whose message says all there is to say end the process with that message and status 1.
    """
    try:
        require_complete(cfg)
        require_targets(cfg, ("machine", "dataset", "model", "loss"))
        with processes(OmegaConf.to_object(cfg.distributed)) as me:  # type: ignore[arg-type]
            return _train(cfg, Path(HydraConfig.get().runtime.output_dir), me)
    except EXPECTED_ERRORS as error:
        log.debug("where it happened", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")


def _train(cfg: DictConfig, run_dir: Path, me: Processes) -> Outcome:
    _require_one_directory(run_dir, me)
    if me.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
    me.barrier()
    setup_logging(run_dir, me.is_main)
    prepare_machine(cfg, me)
    require_paths(cfg)
    trainer = build_trainer(cfg, run_dir, me)
    if me.is_main:
        data = {"train": trainer.task.train, "val": trainer.task.validation}
        prints = {k: d.fingerprint() for k, d in data.items() if hasattr(d, "fingerprint")}
        write_run_description(run_dir, trainer.config, describe_environment(me.world_size, prints))
    return trainer.fit()


def build_trainer(cfg: DictConfig, run_dir: Path, me: Processes) -> Trainer:
    """Build model, loss and datasets of a config, the model from the same seed on every process."""
    params: TrainParamsConf = OmegaConf.to_object(cfg.train_params)  # type: ignore[assignment]
    seed_all(params.seed)
    task = TrainingTask(
        model=build(cfg, "model"),
        loss_function=build(cfg, "loss"),
        train=build(cfg, "dataset.train"),
        validation=build(cfg, "dataset.val"),
    )
    loader = LoaderOptions(
        collate=collate_coop, num_workers=cfg.machine.num_workers, prefetch=cfg.machine.prefetch_batches
    )
    return Trainer(task, params, loader, me, run_dir, plain(cfg))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as dicts, lists, strings and numbers.

    The machine's values are resolved (they come from this environment); references to them and to other keys
    stay references, so that whoever opens the run can move the data by changing one key.
    """
    out: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)  # type: ignore[assignment]
    out["machine"] = OmegaConf.to_container(cfg.machine, resolve=True)
    return out


def prepare_machine(cfg: DictConfig, me: Processes = ALONE) -> None:
    """Make what is absent of the machine's synthetic data, if it has such and reads it; one process does, all wait.

    Raises:
        ConfigError: if the roots hold something else, or data made with other settings.
    """
    machine: MachineConf = cfg.machine
    if machine.synthetic is not None and me.is_main and not reads_cache(cfg):
        images_root, depth_root = Path(machine.opv2v_images_root), machine.opv2v_depth_root
        settings = build(cfg, "machine.synthetic")
        done = images_root / ".complete"  # written last; the generator itself needs seconds to see it is done
        if not done.exists() or done.read_text() != _identity(settings, depth_root):
            from coop3d.datasets.synthetic import make_synthetic_opv2v  # a ray tracer: only where it is used

            try:
                make_synthetic_opv2v(images_root, None if depth_root is None else Path(depth_root), settings)
            except ValueError as error:
                raise ConfigError(f"machine.synthetic: {error}") from error
            done.write_text(_identity(settings, depth_root))
    me.barrier()


def _identity(settings: SyntheticConfig, depth_root: str | None) -> str:
    where = None if depth_root is None else str(Path(depth_root).absolute())
    return json.dumps({**settings.settings(), "depth_root": where})


def _require_one_directory(run_dir: Path, me: Processes) -> None:
    seen = sorted({str(path) for path in me.gather(run_dir.absolute())})
    if len(seen) > 1:
        raise ConfigError(
            f"The processes disagree on the run directory: {', '.join(seen)}. Give all of them one "
            "hydra.run.dir, or the same COOP3D_RUN_STAMP in the environment (bash_scripts/train/*.sh does)."
        )
