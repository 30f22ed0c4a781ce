"""What a config will ask of a GPU and of the host, computed from the config before anything is built.

Model, gradients, optimiser and activations come from `coop3d.models.memory`; this module knows how the state is
cut over processes, what the loaders keep in flight, and which changes of a config would lower the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from coop3d.conf import CONFIG_DIR, Strategy, has_key
from coop3d.training.distributed import Processes
from coop3d.training.network import network_config, one_moment_of, preset_of, workload_of
from coop3d.training.out_of_memory import CHECKPOINTED

if TYPE_CHECKING:
    from coop3d.models.memory import MemoryEstimate

GIB = 2**30
# Host bytes per pixel of a collated sample: colours, rays and origins (which inputs and targets share), range, four
# masks and the source.
BYTES_PER_PIXEL = 36 + 4 + 5
# What a loader process writes of its own: 200-270 MiB measured while it stitches 1008 x 252 from 800 x 600.
BYTES_PER_WORKER = 300 * 2**20


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size)
        return f"{self.total / GIB:.1f} GiB ({listed})"


def gpu_need(cfg: DictConfig, me: Processes) -> MemoryNeed | None:
    """Need per GPU of a config composed from ``configs/train.yaml``; None for models it knows nothing of."""
    if cfg.preflight.need_gib is not None:
        return MemoryNeed({"preflight.need_gib": round(cfg.preflight.need_gib * GIB)})
    estimate, n = _estimate(cfg, me), me.world_size
    if estimate is None:
        return None
    sharded = cfg.distributed.strategy is Strategy.fsdp
    state = {"weights": estimate.weights, "gradients": estimate.gradients, "optimiser": estimate.optimiser}
    parts = {name: -(-size // n) if sharded else size for name, size in state.items()}
    whole = estimate.fsdp(n) if sharded else estimate.ddp(n)
    communication = whole - sum(parts.values()) - estimate.activations
    teacher = -(-estimate.weights // n) + estimate.root if sharded else estimate.weights  # taken to be alike
    average = estimate.gradients if cfg.train_params.ema_decay is not None else 0  # a copy of what trains
    return MemoryNeed(
        {
            **parts,
            "moving average": -(-average // n) if sharded else average,
            "teacher": 0 if cfg.train_params.teacher is None else teacher,
            "communication": max(0, communication),
            "activations": estimate.activations,
            "reserve": round(cfg.preflight.reserve_gib * GIB),
        }
    )


def _estimate(cfg: DictConfig, me: Processes) -> MemoryEstimate | None:
    from coop3d.models import memory  # imports a good part of torch's compiler: only where it is used

    config, workload = network_config(cfg), workload_of(cfg, me, memory)
    if config is None or workload is None:
        return None
    return memory.estimate_memory(config, workload, preset_of(cfg), one_moment_of(cfg))


def alternatives(cfg: DictConfig, me: Processes) -> list[tuple[str, MemoryNeed]]:
    """Changes that lower the need per GPU: each by itself, then together all that leave the training as it is."""
    harmless = _harmless_changes(cfg, me.world_size)
    costly = [(f"preset={name}", {"preset": node}) for name, node in _cheaper_presets(cfg)]
    vehicles = OmegaConf.select(cfg, "dataset.train.sampling.vehicles")
    if vehicles is not None and (vehicles if isinstance(vehicles, int) else max(vehicles)) > 2:
        costly.append(("dataset.train.sampling.vehicles=2", {"dataset.train.sampling.vehicles": 2}))
    together = []
    if len(harmless) > 1:
        merged = {key: value for _, change in harmless for key, value in change.items()}
        together = [(" ".join(text for text, _ in harmless), merged)]
    changes = [*harmless, *together, *costly]
    needs = [(text, _changed(cfg, change, me)) for text, change in changes]
    return [(text, need) for text, need in needs if need is not None]


def _harmless_changes(cfg: DictConfig, world_size: int) -> list[tuple[str, dict[str, Any]]]:
    """Changes that cost time and leave every number of the training as it is."""
    changes: list[tuple[str, dict[str, Any]]] = []
    # view_sum weighs the samples of a micro-batch by their valid pixels: other micro-batches, other gradients
    if cfg.train_params.max_micro_batch > 1 and OmegaConf.select(cfg, "loss.reduction") != "view_sum":
        changes.append(("train_params.max_micro_batch=1", {"train_params.max_micro_batch": 1}))
    parts = [p for p in CHECKPOINTED if has_key(cfg, p) and not OmegaConf.select(cfg, p)]
    if parts:
        changes.append((" ".join(f"{p}=true" for p in parts), dict.fromkeys(parts, True)))
    if cfg.distributed.strategy is not Strategy.fsdp and world_size > 1:
        changes.append(("distributed=fsdp", {"distributed.strategy": Strategy.fsdp}))
    return changes


def _cheaper_presets(cfg: DictConfig) -> Sequence[tuple[str, Any]]:
    chosen = OmegaConf.select(cfg, "preset.name")
    names = ("freeze_encoder", "heads") if chosen in ("full", "lower_encoder_lr") else ()
    return [(name, OmegaConf.load(CONFIG_DIR / "preset" / f"{name}.yaml")) for name in names]


def _changed(cfg: DictConfig, change: dict[str, Any], me: Processes) -> MemoryNeed | None:
    other = cfg.copy()
    for key, value in change.items():
        OmegaConf.update(other, key, value, merge=False)
    return gpu_need(other, me)


def host_need(cfg: DictConfig, me: Processes, processes_here: int) -> MemoryNeed | None:
    """Host memory of all processes on one machine; None where the config does not say the sizes.

    Loaders (those of training wait, with their batches, while those of validation work), the model as every process
    builds it, and the whole state that one process puts together to save it.
    """
    from coop3d.models import memory

    workload = workload_of(cfg, me, memory)
    if workload is None:
        return None
    workers, prefetch = cfg.machine.num_workers, cfg.machine.prefetch_batches
    pixels = workload.batch * workload.views * workload.height * workload.width
    loaders = 2  # of training and of validation
    in_flight = loaders * workers * prefetch + 1
    state = {"weights": 0, "optimiser": 0}
    if (config := network_config(cfg)) is not None:
        state = memory.state_bytes(memory.build_on_meta(config, preset_of(cfg)), one_moment_of(cfg))
    averages = 0 if cfg.train_params.ema_decay is None else 2 * state["weights"]  # gathered, then copied
    return MemoryNeed(
        {
            "batches in flight": processes_here * in_flight * pixels * BYTES_PER_PIXEL,
            "loader processes": processes_here * loaders * workers * BYTES_PER_WORKER,
            "building the model": processes_here * state["weights"],
            "saving": state["weights"] + state["optimiser"] + averages,
        }
    )
