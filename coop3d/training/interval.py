"""What happened between two log lines, and the numbers that go into one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from coop3d.training.distributed import Processes
from coop3d.training.step import StepResult, Sums


@dataclass
class Interval:
    """Sums since the last log line, on this process unless said otherwise."""

    sums: Sums = field(default_factory=Sums)
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds spent waiting for samples
    steps: int = 0
    samples: int = 0  # of all processes
    flops: float = 0.0  # of all processes
    grad_norm: float = 0.0  # largest

    def account(self, result: StepResult, samples: int, flops: float) -> None:
        """One optimiser step."""
        self.steps += 1
        self.samples += samples
        self.flops += flops
        self.grad_norm = max(self.grad_norm, result.grad_norm)

    def values(self, result: StepResult, means: dict[str, float], processes: Processes) -> dict[str, Any]:
        """The line, without what only the trainer knows.

        Args:
            result: of the last step.
            means: loss and terms over all processes.
            processes: this process among its peers.
        """
        seconds = time.perf_counter() - self.started
        values: dict[str, Any] = {
            "loss": means["total"],
            **{f"loss/{name}": value for name, value in means.items() if name != "total"},
            "grad_norm": result.grad_norm,
            "grad_norm_max": self.grad_norm,
            "samples_per_s": self.samples / seconds,
            "seconds_per_step": seconds / max(1, self.steps),
            "data_wait": self.waited / seconds,
        }
        if self.flops:
            values["tflops_per_process"] = self.flops / seconds / processes.world_size / 1e12
            if (peak := peak_tflops(processes.device)) is not None:
                values["mfu"] = values["tflops_per_process"] / peak
        if processes.device.type == "cuda":
            values["gpu_peak_gib"] = torch.cuda.max_memory_allocated(processes.device) / 2**30
            torch.cuda.reset_peak_memory_stats(processes.device)
        return values


# Dense bfloat16 tensor-core peak in TFLOP/s by a part of the card's name, from the vendor's data sheets
# (GeForce cards: with float32 accumulation, which is what torch uses).
PEAK_TFLOPS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A40": 150.0, "A6000": 155.0,
    "RTX 4090": 165.0, "RTX 3090": 71.0, "A10": 125.0,
}  # fmt: skip


def peak_tflops(device: torch.device) -> float | None:
    """What the device could do at most in bfloat16; None where that is not known (also on a CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
