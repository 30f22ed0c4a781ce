"""From a composed config to a finished run: build everything, check everything, then train."""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from coop3d.conf import (
    ConfigError,
    PreflightConf,
    TrainParamsConf,
    build,
    reads_cache,
    require_complete,
    require_paths,
    require_targets,
)
from coop3d.datasets import DataError, collate_coop
from coop3d.environment import describe_environment
from coop3d.files import lock_at_once
from coop3d.models.presets import count_all
from coop3d.training.checkpoint import CheckpointError, CheckpointWriteError
from coop3d.training.data import BadSamplesError, SampleError
from coop3d.training.distributed import PeerError, Processes, processes, seed_all
from coop3d.training.guard import NonFiniteError
from coop3d.training.memory_need import alternatives, gpu_need, host_need
from coop3d.training.network import announce_cost, build_network, may_fail
from coop3d.training.out_of_memory import GpuMemoryError
from coop3d.training.preflight import PreflightError, Probes, Suggestion, check_gpus, check_host
from coop3d.training.run_log import setup_logging, write_run_description
from coop3d.training.signals import INTERRUPTED
from coop3d.training.teacher import build_teacher
from coop3d.training.trainer import Outcome, Trainer, TrainingTask
from coop3d.training.validation import LoaderOptions

if TYPE_CHECKING:
    from coop3d.datasets.synthetic import SyntheticConfig

log = logging.getLogger(__name__)

LOCK = ".lock"  # in the run directory
NO_FORECAST = "A forecast of memory failed"

ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))
EXPECTED_ERRORS = (
    ConfigError, DataError, CheckpointError, CheckpointWriteError, SampleError, BadSamplesError, NonFiniteError,
    PreflightError, GpuMemoryError,
)  # fmt: skip

GRACE_S = 10.0
LOST_PEER = ("Connection closed by peer", "Connection reset by peer")  # gloo, when another process has ended


def train_from_config(cfg: DictConfig) -> Outcome:
    """Train what a config composed from ``configs/train.yaml`` describes, in Hydra's run directory.

    Errors whose message says all there is to say end the process with that message and status 1, and Ctrl-C ends it
    with status 130, saved or not.
    """
    try:
        require_complete(cfg)
        require_targets(cfg, ("machine", "dataset", "model", "preset", "loss"))
        patience = cfg.preflight.wait_for_free
        with processes(OmegaConf.to_object(cfg.distributed), patience) as me:  # type: ignore[arg-type]
            outcome = _train(cfg, Path(HydraConfig.get().runtime.output_dir), me)
    except EXPECTED_ERRORS as error:
        log.debug("where it happened", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")
    except RuntimeError as error:
        if not isinstance(error, PeerError) and not any(words in str(error) for words in LOST_PEER):
            raise
        log.debug("where it happened", exc_info=True)
        # torchrun kills all ranks when the first exits. Wait, so that the rank that failed exits first and its message
        # is shown.
        time.sleep(GRACE_S)
        sys.exit(f"Another process ended while this one waited for it: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(
            f"The disk of the run directory is full ({error}). Make room and start again: the run resumes."
        )
    except KeyboardInterrupt:  # before the first step, or at once
        log.error("Interrupted.")
        sys.exit(INTERRUPTED)
    if outcome is Outcome.interrupted:
        sys.exit(INTERRUPTED)
    return outcome


def _train(cfg: DictConfig, run_dir: Path, me: Processes) -> Outcome:
    _require_one_directory(run_dir, me)
    with _claimed(run_dir, me):
        return _train_in(run_dir, cfg, me)


@contextmanager
def _claimed(run_dir: Path, me: Processes) -> Iterator[None]:
    """Inside, no other run writes into the directory: both would lose checkpoints and lines of the log."""
    error = None
    with ExitStack() as held:
        if me.is_main:
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                file = held.enter_context((run_dir / LOCK).open("wb"))
                lock_at_once(file, run_dir, by_process=True)  # loader processes may outlive a killed trainer
            except BlockingIOError:
                error = ConfigError(
                    f"hydra.run.dir={run_dir}: another run is training there. Wait for it, stop it, or choose another "
                    "directory."
                )
            except OSError as caught:
                error = ConfigError(
                    f"cannot write {run_dir} ({caught.strerror}: {caught.filename}); choose another hydra.run.dir."
                )
        me.together(error)
        yield


def _train_in(run_dir: Path, cfg: DictConfig, me: Processes) -> Outcome:
    setup_logging(run_dir, me.is_main)
    prepare_machine(cfg, me)
    require_paths(cfg)
    announce_cost(cfg, me)
    preflight(cfg, me)
    me.claim_device()
    trainer = build_trainer(cfg, run_dir, me)
    return trainer.fit(lambda: _describe(trainer) if me.is_main else None)


def _describe(trainer: Trainer) -> None:
    data = {"train": trainer.task.train, "val": trainer.task.validation}
    prints = {k: d.fingerprint() for k, d in data.items() if hasattr(d, "fingerprint")}
    environment = describe_environment(trainer.processes.world_size, prints)
    environment["parameters"] = asdict(count_all(trainer.task.model))
    write_run_description(trainer.run_dir, trainer.config, environment, trainer.step)


def preflight(cfg: DictConfig, me: Processes, probes: Probes | None = None) -> None:
    """Refuse, or wait, where host or GPUs have no room for this run; takes no GPU memory. All processes call it.

    Raises:
        PreflightError: on process 0.
        PeerError: on the others, then.
    """
    conf: PreflightConf = OmegaConf.to_object(cfg.preflight)  # type: ignore[assignment]
    if not conf.enabled:
        return
    on_host = here = error = None
    with may_fail(NO_FORECAST):
        on_host = host_need(cfg, me, me.on_this_machine)
    if on_host is not None:
        try:
            check_host(on_host, probes)
        except PreflightError as caught:
            error = caught
    me.together(error)
    if me.device.type != "cuda":
        return
    with may_fail(NO_FORECAST):
        here = gpu_need(cfg, me) if me.is_main else None
    need = me.gather(here)[0]
    if need is None:
        log.warning("No estimate of GPU memory for this model; preflight.need_gib=N names it.")
        return

    def suggest() -> list[Suggestion]:
        """Estimates of changed configs; where the need is given by hand there is nothing to compare them with."""
        changes = []
        with may_fail(NO_FORECAST):
            changes = alternatives(cfg, me) if conf.need_gib is None else []
        return [Suggestion(text, other.total) for text, other in changes]

    check_gpus(conf, need, suggest, me, probes)


def build_trainer(cfg: DictConfig, run_dir: Path, me: Processes) -> Trainer:
    """Build model, loss and datasets of a config, the model from the same seed on every process."""
    params: TrainParamsConf = OmegaConf.to_object(cfg.train_params)  # type: ignore[assignment]
    loss_function = build(cfg, "loss")
    teacher = build_teacher(cfg, loss_function)  # draws weights before it loads its own: before the seed
    seed_all(params.seed)
    task = TrainingTask(
        model=build_network(cfg),
        loss_function=loss_function,
        teacher=teacher,
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
    error = None
    if cfg.machine.synthetic is not None and me.is_main and not reads_cache(cfg):
        try:
            _make_synthetic(cfg)
        except ConfigError as caught:
            error = caught
    me.together(error)


def _make_synthetic(cfg: DictConfig) -> None:
    images_root, depth_root = Path(cfg.machine.opv2v_images_root), cfg.machine.opv2v_depth_root
    settings = build(cfg, "machine.synthetic")
    done = images_root / ".complete"  # written last; the generator itself needs seconds to see it is done
    if done.exists() and done.read_text() == _identity(settings, depth_root):
        return
    from coop3d.datasets.synthetic import make_synthetic_opv2v  # a ray tracer: only where it is used

    try:
        make_synthetic_opv2v(images_root, None if depth_root is None else Path(depth_root), settings)
    except ValueError as error:
        raise ConfigError(f"machine.synthetic: {error}") from error
    done.write_text(_identity(settings, depth_root))


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
