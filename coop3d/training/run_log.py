"""What a run writes about itself: log lines, and records of steps and epochs with their scalars; read again, too."""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from coop3d.conf import ConfigError
from coop3d.files import write_text

log = logging.getLogger(__name__)

HEADLINES = (  # scores on the console after an epoch; log.jsonl has all
    "pose/translation_m/median", "pose/rotation_deg/median", "pose/recall_2m_2deg", "pose/recall_5m_5deg",
    "scale/error/median", "range/abs_rel", "range/abs_rel_aligned", "range/delta_125", "mask/iou",
    "single/range/abs_rel", "single/mask/iou",
)  # fmt: skip


def setup_logging(run_dir: Path, is_main: bool) -> None:
    """Process 0 logs to the console and to ``train.log``; the others only warnings, to the console."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if is_main:
        handlers.append(logging.FileHandler(run_dir / "train.log", encoding="utf-8"))
    rank = "" if is_main else f" [process {os.environ.get('RANK', '?')}]"
    logging.basicConfig(
        level=logging.INFO if is_main else logging.WARNING,
        format=f"%(asctime)s %(levelname)s{rank} %(name)s: %(message)s",
        handlers=handlers,
        force=True,
    )


class RunLog:
    """Writer of ``log.jsonl``, TensorBoard events and, where asked, Weights & Biases.

    Does nothing on processes other than the first.
    """

    def __init__(
        self, run_dir: Path, is_main: bool, resumed_step: int, wandb_project: str | None = None
    ) -> None:
        self._jsonl = self._board = self._wandb = None
        if not is_main:
            return
        path = run_dir / "log.jsonl"
        _drop_lines_after(path, resumed_step)
        self._jsonl = path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resumed_step + 1)
        if wandb_project is not None:
            self._wandb = _start_wandb(wandb_project, run_dir)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One record; its numbers become scalars named ``kind/name``."""
        if self._jsonl is None or self._board is None:
            return
        self._jsonl.write(json.dumps({"kind": kind, "step": step, **values}, default=str) + "\n")
        scalars = {
            f"{kind}/{name}": value
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        }
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None and scalars:
            self._wandb.log(scalars, step=step)

    def image(self, name: str, step: int, rgb: NDArray[np.uint8]) -> None:
        """One picture [H, W, 3]; not in ``log.jsonl``."""
        if self._board is not None:
            self._board.add_image(name, rgb, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: import_module("wandb").Image(rgb)}, step=step)

    def close(self) -> None:
        """Flush everything."""
        if self._jsonl is not None and self._board is not None:
            self._jsonl.close()
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_log(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Records of one kind (``train``, ``val``) of a ``log.jsonl``; a torn line is left out, no file is no record."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("kind") == kind:
            yield record


def _start_wandb(project: str, run_dir: Path) -> Any:
    """A Weights & Biases run named after the directory; resuming the directory resumes it."""
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"train_params.wandb_project={project}, but wandb is not installed: pip install wandb, or leave it "
            "null (TensorBoard and log.jsonl are always written)."
        ) from error
    kept = run_dir / "wandb_id"
    if not kept.exists():
        write_text(kept, f"{run_dir.name}-{uuid.uuid4().hex[:8]}")  # many runs are called "train"
    return wandb.init(
        project=project,
        dir=str(run_dir),
        name=run_dir.name,
        id=kept.read_text(encoding="utf-8"),
        resume="allow",
    )


def headlines(metrics: dict[str, float]) -> dict[str, float]:
    """Of a validation's numbers, those that a person follows: losses, and some scores of pose, range and mask."""
    losses = [name for name in metrics if name == "loss" or name.startswith("loss/")]
    return {name: metrics[name] for name in (*losses, *HEADLINES) if name in metrics}


def step_line(values: dict[str, Any]) -> str:
    """A record of kind ``train``, for the progress bar."""
    rate = max(value for name, value in values.items() if name.startswith("lr/"))
    return (
        f"loss {values['loss']:.4f}, lr {rate:.1e}, {values['samples_per_s']:.1f} samples/s, "
        f"wait {values['data_wait']:.0%}, |g| {values['grad_norm']:.2f}"
    )


def console_table(metrics: dict[str, float], columns: int = 3) -> str:
    """Names and values in a few columns, in the order given; names are never cut."""
    width = max(map(len, metrics), default=0)
    cells = [f"{name:<{width}}{value:>10.4g}" for name, value in metrics.items()]
    rows = -(-len(cells) // columns)
    return "\n".join("   ".join(cells[i::rows]) for i in range(rows))


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget what was logged after the checkpoint a run resumes from; those steps will be taken again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):  # the line that was being written when the run was killed
            log.warning("%s: dropped an incomplete line.", path)
    write_text(path, "".join(f"{line}\n" for line in kept))


def write_run_description(
    run_dir: Path, config: dict[str, Any], environment: dict[str, Any], step: int = 0
) -> None:
    """``config.yaml`` and ``environment.json`` of the run.

    A config that was written before and differs is kept as ``config-step<N>.yaml``: it holds up to step N, from which
    the run goes on with the new one.
    """
    path, text = run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        path.replace(run_dir / f"config-step{step}.yaml")
    write_text(path, text)
    write_text(run_dir / "environment.json", json.dumps(environment, indent=2))
