"""Time and memory of the model at a middle size on two CPU threads, beside published figures of the official code.

The sizes, inputs and objective are those at which MapAnything's own code was timed (2 views of 252x1008, images only,
float32, 112 M parameters): those figures come from another machine, so ratios to them are indications. One process per
mode, so that its peak of resident memory is its own.

python benchmarks/bench_model.py --output benchmarks/results/model.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from measure import resident_bytes

from coop3d.files import write_text
from coop3d.models import MapAnything, MapAnythingConfig, from_mapping
from coop3d.types import FactoredPrediction, ViewInputs

H, W, VIEWS, THREADS = 252, 1008, 2, 2
# mode -> (seconds, peak of resident memory in GB) of the official code on its own machine
OFFICIAL = {"inference": (4.59, 1.45), "train": (15.24, 4.42), "train_checkpointed": (15.18, 2.91)}
BUILT_GB = 0.70  # resident there after building


def middle_size(checkpointing: bool) -> MapAnything:
    """The second architecture (SwiGLU, LayerScale, class token passed on) at width 384."""
    torch.manual_seed(0)
    transformer = {
        "dim": 384,
        "depth": 8,
        "num_heads": 6,
        "indices": [3, 5],
        "mlp": "swiglu",
        "layer_scale_init": 1e-5,
    }
    config: dict[str, Any] = {
        "encoder": {
            "embed_dim": 384, "depth": 12, "num_heads": 6, "mlp": "swiglu", "final_norm": False, "pass_cls_token": True,
            "gradient_checkpointing": checkpointing,
        },
        "info_sharing": {"module_args": {**transformer, "gradient_checkpointing": checkpointing}},
        "pred_head": {"feature_dim": 128, "layer_dims": [96, 192, 384, 768], "gradient_checkpointing": checkpointing},
    }  # fmt: skip
    return MapAnything(from_mapping(MapAnythingConfig, config))


def objective(p: FactoredPrediction) -> torch.Tensor:
    """Sum over views of the mean squares of every output."""
    scale = p.scale[:, None, None]
    terms = (
        p.points_ref.square(),
        p.confidence,
        p.mask_logits.square(),
        (p.trans * scale).square(),
        p.quat_xyzw.square(),
    )
    return sum((t.transpose(0, 1).flatten(1).mean(1).sum() for t in terms), torch.zeros(()))


def measure(mode: str, repeats: int) -> dict[str, Any]:
    """Median times and peak memory of one mode, in a process of its own."""
    torch.set_num_threads(THREADS)
    model = middle_size(checkpointing=mode == "train_checkpointed").train(mode != "inference")
    built = resident_bytes() / 1e9
    inputs = ViewInputs(image=torch.rand(1, VIEWS, 3, H, W, generator=torch.Generator().manual_seed(1)))
    forward, total = [], []
    for step in range(repeats + 1):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.set_grad_enabled(mode != "inference"):
            value = objective(model(inputs)) if mode != "inference" else model(inputs)
        middle = time.perf_counter()
        if isinstance(value, torch.Tensor):
            value.backward()
        if step:  # the first is a warm-up
            forward.append(middle - start)
            total.append(time.perf_counter() - start)
        del value
    seconds = statistics.median(total)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    official_s, official_gb = OFFICIAL[mode]
    return {
        "seconds": round(seconds, 2),
        "forward_seconds": round(statistics.median(forward), 2),
        "built_gb": round(built, 2),
        "peak_gb": round(peak, 2),
        "above_built_gb": round(peak - built, 2),
        "official_seconds": official_s,
        "official_above_built_gb": round(official_gb - BUILT_GB, 2),
        "official_over_ours_seconds": round(official_s / seconds, 2),
        "ours_over_official_above_built": round((peak - built) / (official_gb - BUILT_GB), 2),
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=OFFICIAL, default=list(OFFICIAL))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/bench_model.py --repeats {args.repeats}",
        "hardware": f"{platform.machine()}, {THREADS} threads, torch {torch.__version__}",
        "modes": {},
    }
    for mode in args.modes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result["modes"][mode] = pool.submit(measure, mode, args.repeats).result()
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_text(args.output, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
