"""Before anything is built: is there room on the GPUs and in host memory for what this config needs?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coop3d.conf import PreflightConf
from coop3d.training.distributed import Processes
from coop3d.training.gpu_probe import GpuProbe, GpuState, host_memory_bytes, probe_gpu
from coop3d.training.memory_need import GIB, MemoryNeed

log = logging.getLogger(__name__)


class PreflightError(RuntimeError):
    """The machine has no room for this run; the message says who holds it and what would help."""


@dataclass(frozen=True)
class Suggestion:
    """A change of the config and what it would leave as the need per GPU."""

    override: str
    need_bytes: int


Suggest = Callable[[], Sequence[Suggestion]]  # slow: asked only when a run is refused


@dataclass(frozen=True)
class Probes:
    """Where the preflight looks; tests put simulated machines here."""

    gpu: GpuProbe = probe_gpu
    host: Callable[[], int | None] = host_memory_bytes
    sleep: Callable[[float], None] = time.sleep


def check_gpus(
    conf: PreflightConf, need: MemoryNeed, suggest: Suggest, me: Processes, probes: Probes | None = None
) -> None:
    """Compare every process's GPU with ``need``: go on, wait, or refuse. All processes call it.

    Raises:
        PreflightError: on process 0, if some GPU has too little room and waiting is over.
        PeerError: on the others, then.
    """
    probes = probes if probes is not None else Probes()
    required, waited, told = need.total, 0.0, False
    while True:
        states = me.gather(probes.gpu(me.device.index or 0))
        crowded = [s for s in states if s.free_bytes < required]
        if not told or not crowded:
            _tell(states, need, me)
            told = True
        if not crowded:
            return
        if waited >= 60 * conf.wait_for_free:
            extra = suggest() if me.is_main else []
            me.together(
                PreflightError(refusal(crowded, need, extra, conf.wait_for_free, len(states)))
                if me.is_main
                else None
            )
        if me.is_main:
            log.warning(
                "Waiting for %d of %d GPUs (%.0f of at most %.0f minutes). %s",
                len(crowded), len(states), waited / 60, conf.wait_for_free, _row(crowded[0], required),
            )  # fmt: skip
        probes.sleep(conf.poll_seconds)
        waited += conf.poll_seconds


def _tell(states: Sequence[GpuState], need: MemoryNeed, me: Processes) -> None:
    if me.is_main:
        log.info("Estimated need per GPU: %s.", need)
        for state in states:
            log.info("%s", _row(state, need.total))


def _row(state: GpuState, required: int) -> str:
    room = "enough" if state.free_bytes >= required else f"{gib(required - state.free_bytes)} too little"
    holders = "; ".join(map(str, state.processes)) or "no process named"
    return (
        f"GPU {state.index} ({state.name}): {gib(state.free_bytes)} of {gib(state.total_bytes)} free, {room}. "
        f"Held by: {holders}."
    )


def refusal(
    crowded: Sequence[GpuState],
    need: MemoryNeed,
    suggestions: Sequence[Suggestion],
    waited_minutes: float,
    world_size: int,
) -> str:
    """What is missing where, and what to change, cheapest first."""
    least = min(s.free_bytes for s in crowded)
    lines = [f"{len(crowded)} of {world_size} GPUs have no room for this run, which needs about {need}."]
    lines += [f"  {_row(state, need.total)}" for state in crowded]
    waited = f" (waited {waited_minutes:.0f} minutes)" if waited_minutes else ""
    lines.append(f"What helps{waited}:")
    lines.append(
        "  preflight.wait_for_free=120 waits up to 120 minutes; CUDA_VISIBLE_DEVICES chooses free GPUs."
    )
    for s in suggestions:
        fits = "fits" if s.need_bytes <= least else f"still {gib(s.need_bytes - least)} too much"
        lines.append(f"  {s.override}: about {gib(s.need_bytes)} per GPU, {fits}.")
    lines.append("  preflight.enabled=false starts all the same, preflight.need_gib=N replaces the estimate.")
    return "\n".join(lines)


def check_host(need: MemoryNeed, probes: Probes | None = None) -> None:
    """Refuse a run whose loaders would fill the memory of this host.

    Args:
        need: of all processes on this host together.

    Raises:
        PreflightError: naming the settings to lower.
    """
    probes = probes if probes is not None else Probes()
    available = probes.host()
    if available is None or need.total <= available:
        return
    raise PreflightError(
        f"Host memory: {gib(available)} available, this run needs about {need}. Lower machine.num_workers, "
        "machine.prefetch_batches or train_params.max_micro_batch, or start fewer processes; "
        "preflight.enabled=false starts all the same."
    )


def gib(value: float) -> str:
    """Bytes as text."""
    return f"{value / GIB:.1f} GiB"
