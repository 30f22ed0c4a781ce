"""Time of an update by Muon and by AdamW, for the models that train from nothing, in float32 on two CPU threads.

Random gradients; both optimisers in turn in the same process. ``share_of_product_speed`` says how far Muon is from its
floor: the operations of its matrix products per second, over those of a product of two large matrices.

python benchmarks/bench_optimizer.py --output benchmarks/results/optimizer.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from bench_model import THREADS, hardware, product_gflops
from measure import report
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coop3d.conf import build, compose
from coop3d.training.schedule import make_optimizer, parameter_groups

MODELS = ("small", "medium")
OPTIMISERS = ("adamw", "muon")


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Median milliseconds of an update by either, and what Muon computes."""
    torch.manual_seed(0)
    model: nn.Module = build(
        compose("train", [f"model={name}", "machine=demo", "dataset=opv2v_cyl_coop_small"]), "model"
    )
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    steps = {
        kind: make_optimizer(
            parameter_groups(model, 1e-6, 0.05, 1.0, orthogonal=kind == "muon"), (0.9, 0.98)
        ).step
        for kind in OPTIMISERS
    }
    with FlopCounterMode(display=False) as counter:
        steps["muon"]()
    steps["adamw"]()
    seconds: dict[str, list[float]] = {kind: [] for kind in OPTIMISERS}
    for _ in range(repeats):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[kind].append(time.perf_counter() - start)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    operations, product = counter.get_total_flops(), product_gflops()
    return {
        **{f"{kind}_ms": round(1e3 * value, 1) for kind, value in medians.items()},
        "muon_over_adamw": round(medians["muon"] / medians["adamw"], 1),
        "muon_operations_g": round(operations / 1e9, 1),
        "share_of_product_speed": round(operations / 1e9 / medians["muon"] / product, 2),
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="of an update (default: 9)")
    parser.add_argument("--output", type=Path, help="write the result here, too")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    models = {name: measure(name, args.repeats) for name in MODELS}
    command = f"python benchmarks/bench_optimizer.py --repeats {args.repeats}"
    report({"command": command, "hardware": hardware(), "models": models}, args.output)


if __name__ == "__main__":
    main()
