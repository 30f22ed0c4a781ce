"""What a step that went wrong leaves behind, and how to run it again on any machine.

``failures/step_000123/`` in the run directory holds ``record.json``, ``config.yaml``, the weights before the step
(``weights.safetensors``) and the micro-batches that caused it (``batch_<process>_<number>.safetensors``). No pickle.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coop3d.conf import Precision, build
from coop3d.losses import WeightedSum
from coop3d.training.distributed import Processes
from coop3d.training.guard import NonFiniteError
from coop3d.training.network import build_network
from coop3d.training.run import without_pretrained
from coop3d.training.state import model_state
from coop3d.training.step import Objective, make_autocast, read_scalars
from coop3d.training.teacher import build_teacher
from coop3d.types import CoopBatch, SampleKey, ViewInputs, ViewTargets

log = logging.getLogger(__name__)

PARTS: dict[str, type] = {"inputs": ViewInputs, "targets": ViewTargets}


def save_batch(path: Path, batch: CoopBatch) -> None:
    """Every tensor of a batch as ``inputs.<field>`` and ``targets.<field>``; keys in the file's metadata."""
    tensors = {
        # copies, since fields may share memory (origins of inputs and targets do), which the format forbids
        f"{part}.{f.name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part in PARTS
        for f in fields(getattr(batch, part))
        if isinstance(value := getattr(getattr(batch, part), f.name), Tensor)
    }
    save_file(tensors, path, {"keys": json.dumps(batch.keys)})


def load_batch(path: str | Path) -> CoopBatch:
    """Inverse of :func:`save_batch`."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        keys = json.loads(file.metadata()["keys"])
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PARTS}
    for name, value in tensors.items():
        part, _, field = name.partition(".")
        parts[part][field] = value
    return CoopBatch(
        inputs=ViewInputs(**parts["inputs"]),
        targets=ViewTargets(**parts["targets"]),
        keys=tuple(tuple(SampleKey(*key) for key in sample) for sample in keys),
    )


def save_failure(
    folder: Path,
    record: dict[str, Any],
    culprits: Sequence[CoopBatch],
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    rank: int,
) -> None:
    """Write this process's part of a failure; process 0 also writes what all have in common."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, batch in enumerate(culprits):
        save_batch(folder / f"batch_{rank}_{i}.safetensors", batch)
    if rank == 0:
        save_file({k: v.contiguous().clone() for k, v in weights.items()}, folder / "weights.safetensors")
        (folder / "config.yaml").write_text(
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        (folder / "record.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


def record_failure(
    error: NonFiniteError,
    run_dir: Path,
    where: dict[str, Any],
    model: nn.Module,
    config: dict[str, Any],
    processes: Processes,
) -> None:
    """Every process writes those of its micro-batches that caused the failure.

    Args:
        error: with the micro-batches.
        run_dir: of the run.
        where: ``step``, ``position`` in the data and ``progress`` of the loss.
        model: the plain or the sharded one.
        config: of the run.
        processes: all call this.
    """
    folder = run_dir / "failures" / f"step_{where['step']:06d}"
    record = {**where, "message": str(error), **error.record}
    save_failure(folder, record, error.culprits, model_state(model), config, processes.rank)
    if processes.is_main:
        log.error(
            "%s No weight was changed by it. Run it again: python scripts/replay_batch.py %s", error, folder
        )


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a saved micro-batch when it was run again."""

    path: Path
    samples: tuple[str, ...]
    scalars: dict[str, float]  # the loss and its terms
    first_bad_module: str | None  # the first whose output is not finite
    bad_gradients: tuple[str, ...]  # parameters whose gradient is not finite
    grad_norm: float

    def __str__(self) -> str:
        lines = [f"{self.path.name}: {'; '.join(self.samples)}"]
        lines += [f"  {name:<28}{value:>14.6g}" for name, value in self.scalars.items()]
        lines.append(f"  {'gradient norm':<28}{self.grad_norm:>14.6g}")
        lines.append(f"  first module with an output that is not finite: {self.first_bad_module or 'none'}")
        bad = ", ".join(self.bad_gradients[:8]) or "none"
        lines.append(f"  gradients that are not finite: {len(self.bad_gradients)} ({bad})")
        return "\n".join(lines)


def replay(folder: str | Path, device: str = "cpu", precision: str | None = None) -> list[Replay]:
    """Run the saved micro-batches of a failure again, forward and backward, from the same weights.

    Args:
        folder: ``failures/step_<n>`` of a run directory.
        device: a CPU computes in float32, whatever the run did.
        precision: instead of the run's ``train_params.precision``.

    Raises:
        FileNotFoundError: if the folder does not hold a failure.
    """
    folder = Path(folder)
    batches = sorted(folder.glob("batch_*.safetensors"))
    if not batches or not (folder / "config.yaml").exists():
        raise FileNotFoundError(
            f"{folder}: no batch_*.safetensors and config.yaml; give failures/step_<n> of a run directory."
        )
    saved: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    cfg = OmegaConf.create(saved)
    wanted = Precision[precision or str(cfg.train_params.precision)]
    autocast = make_autocast(Precision.fp32 if device == "cpu" else wanted, torch.device(device))
    model = build_network(without_pretrained(cfg))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    model.to(device).train()
    loss = build(cfg, "loss")
    if isinstance(loss, WeightedSum):
        loss.progress = json.loads((folder / "record.json").read_text(encoding="utf-8"))["progress"]
    teacher = build_teacher(cfg, loss)
    objective = Objective(loss_function=loss, autocast=autocast, teacher=teacher and teacher.to(device))
    return [_replay_one(path, model, objective, device) for path in batches]


def _replay_one(path: Path, model: nn.Module, objective: Objective, device: str) -> Replay:
    batch, bad = load_batch(path).to(device), list[str]()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            values = output if isinstance(output, (tuple, list)) else (output,)
            tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
            if not all(bool(torch.isfinite(v).all()) for v in tensors):
                bad.append(name)

        return hook

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    model.zero_grad(set_to_none=True)
    output = objective.loss(objective.predict(model, batch), batch)
    output.total.backward()
    for hook in hooks:
        hook.remove()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Replay(
        path=path,
        samples=tuple(" + ".join(map(str, keys)) for keys in batch.keys),
        scalars=read_scalars(output.scalars()),
        first_bad_module=bad[0] if bad else None,
        bad_gradients=tuple(n for n, g in gradients.items() if not bool(torch.isfinite(g).all())),
        grad_norm=float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)),
    )
