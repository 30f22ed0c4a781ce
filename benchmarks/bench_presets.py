"""What each fine-tuning preset costs: trained parameters, memory per GPU, time of a step.

Memory is estimated for the 1228 M architecture with its panorama options and all three checkpointing overrides, from
the shapes of every tensor of a step (docs/model.md; on a CPU the same bytes within 1 %): no GPU is needed. Time and
resident memory are measured on two CPU threads with the model of ``bench_model.py``, one process per preset.
``--measured-only`` and ``--estimated-only`` do one half. ``lora`` needs the extra peft.

python benchmarks/bench_presets.py --output benchmarks/results/presets.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from bench_model import THREADS, VIEWS, H, W, hardware, middle_size, objective, some_views, timed_step
from measure import in_new_process, peak_bytes, report, resident_bytes
from tqdm import tqdm

from coop3d.conf import compose
from coop3d.models.memory import GIB, Workload, build_on_meta, estimate_memory
from coop3d.models.presets import count_all
from coop3d.training.memory_need import CHECKPOINTED
from coop3d.training.network import network_config, preset_of

PRESETS = ("full", "lower_encoder_lr", "freeze_encoder", "heads", "bias_only", "lora")
PANORAMAS, GPUS = 4, 10


def estimate(name: str) -> dict[str, Any]:
    """Parameters and GiB per GPU of a preset of ``model=mapanything_v1_1``."""
    cfg = compose(
        "train", ("model=mapanything_v1_1", f"preset={name}", *(f"{key}=true" for key in CHECKPOINTED))
    )
    config, preset = network_config(cfg), preset_of(cfg)
    assert config is not None
    count = count_all(build_on_meta(config, preset))
    memory = estimate_memory(config, Workload(views=PANORAMAS, height=H, width=W, bf16=True), preset)
    sums = {"one": memory.ddp(1), f"ddp_{GPUS}": memory.ddp(GPUS), f"fsdp_{GPUS}": memory.fsdp(GPUS)}
    return {
        "trainable_m": round(count.trainable / 1e6, 3),
        "trainable_fraction": round(count.trainable / count.total, 6),
        "activations_gib": round(memory.activations / GIB, 2),
        "gib_per_gpu": {how: round(size / GIB, 2) for how, size in sums.items()},
    }


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Median seconds of a step (AdamW included) and peak memory above the built model, in a process of its own."""
    torch.set_num_threads(THREADS)
    model = middle_size(checkpointing=False).train()
    preset = preset_of(compose("train", (f"preset={name}",)))
    assert preset is not None
    preset.apply(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    built = resident_bytes() / 1e9
    inputs = some_views()
    times = []
    for _ in range(repeats + 1):
        times.append(timed_step(model, inputs, objective)[1])
        optimiser.step()
    peak = peak_bytes() / 1e9
    return {"seconds": round(statistics.median(times[1:]), 2), "above_built_gb": round(peak - built, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--repeats", type=int, default=3)
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--measured-only", action="store_true")
    half.add_argument("--estimated-only", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/bench_presets.py --repeats {args.repeats}",
        "hardware": hardware(),
        "estimated": {
            "model": "mapanything_v1_1",
            "workload": f"{PANORAMAS} panoramas of {W} x {H}, bf16, all checkpointing",
        },
        "measured": {
            "model": "middle size of bench_model.py",
            "workload": f"{VIEWS} views of {W} x {H}, fp32",
        },
        "presets": {name: {} for name in args.presets},
    }
    for name in tqdm(args.presets, unit="preset"):
        if not args.measured_only:
            result["presets"][name]["estimated"] = in_new_process(estimate, name)
        if not args.estimated_only:
            result["presets"][name]["measured"] = in_new_process(measure, name, args.repeats)
    report(result, args.output)


if __name__ == "__main__":
    main()
