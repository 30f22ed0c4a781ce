"""Time and memory of the model at a middle size on two CPU threads, beside those of the official code.

The sizes, inputs and objective are those at which MapAnything's own code was timed (2 views of 252x1008, images only,
float32, 112 M parameters). One process per mode, so that its peak of resident memory is its own.

``--official`` names a file with figures of the official code (`results/model_official.json`): steps of both programs
in turn on idle machines. Those of a machine like this one replace `ELSEWHERE`; the result says which was which.
Two runs compare only if the machine did the same beside both.

``share_of_product_speed`` says how far a step is from the floor: its useful operations (a forward pass, times three in
training; what checkpointing and attention's backward pass compute again does not count) per second, over those of a
product of two large matrices between the steps.

python benchmarks/bench_model.py --output benchmarks/results/model.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import in_new_process, median_ms, peak_bytes, report, resident_bytes
from torch import nn

from coop3d.models import MapAnything, MapAnythingConfig, from_mapping
from coop3d.models.linear import linear
from coop3d.training.flops import BACKWARD_FACTOR, FlopCounter
from coop3d.types import FactoredPrediction, ViewInputs

H, W, VIEWS, THREADS = 252, 1008, 2, 2
MODES = ("inference", "train", "train_checkpointed")
# The official code on an idle machine of another kind: wall seconds, and peak memory above the built model.
ELSEWHERE = {
    "inference": {"seconds": 4.59, "above_built_gb": 0.75},
    "train": {"seconds": 15.24, "above_built_gb": 3.72},
    "train_checkpointed": {"seconds": 15.18, "above_built_gb": 2.21},
}
OFFICIAL_HERE = Path(__file__).parent / "results" / "model_official.json"


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


def some_views() -> ViewInputs:
    """Random photographs, the same every time."""
    return ViewInputs(image=torch.rand(1, VIEWS, 3, H, W, generator=torch.Generator().manual_seed(1)))


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
    inputs = some_views()
    value = None if mode == "inference" else objective
    # A product after every step: a machine that others share has slow and fast minutes.
    steps = [(*timed_step(model, inputs, value), product_gflops()) for _ in range(repeats + 1)]
    measured = zip(*steps[1:], strict=True)  # the first is a warm-up
    forward, total, processor, product = map(statistics.median, measured)
    peak = peak_bytes() / 1e9
    operations = FlopCounter(model).of_step(inputs) / (BACKWARD_FACTOR if mode == "inference" else 1)
    return {
        "seconds": round(total, 2),
        "processor_seconds": round(processor, 2),
        "forward_seconds": round(forward, 2),
        "operations_g": round(operations / 1e9),
        "product_gflops": round(product),
        "share_of_product_speed": round(operations / 1e9 / total / product, 2),
        "built_gb": round(built, 2),
        "peak_gb": round(peak, 2),
        "above_built_gb": round(peak - built, 2),
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
    }


def product_gflops(size: int = 2048) -> float:
    """Speed of a large matrix product in float32 as the model computes it, 1e9 operations per second."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / (1e6 * median_ms(lambda: linear(a, b)))


def timed_step(
    model: nn.Module, inputs: Any, value: Callable[[Any], torch.Tensor] | None
) -> tuple[float, float, float]:
    """Wall seconds forward and in all, and processor seconds of all threads.

    Args:
        model: takes the inputs.
        inputs: of the model.
        value: of its outputs, with a backward pass from it; None: inference.
    """
    model.zero_grad(set_to_none=True)
    processor, start = time.process_time(), time.perf_counter()
    with torch.set_grad_enabled(value is not None):
        found = model(inputs) if value is None else value(model(inputs))
    middle = time.perf_counter()
    if value is not None:
        found.backward()
    return middle - start, time.perf_counter() - start, time.process_time() - processor


def compare(ours: dict[str, Any], here: dict[str, float], elsewhere: dict[str, float]) -> dict[str, Any]:
    """Ratios to the official code, of times official / ours, of memory ours / official, and where its part is from."""
    seconds, memory = (here.get(kind, elsewhere[kind]) for kind in ("seconds", "above_built_gb"))
    source = {kind: "a machine like this" if kind in here else "another machine" for kind in elsewhere}
    return {
        "official_over_ours_seconds": round(seconds / ours["seconds"], 2),
        "ours_over_official_above_built": round(ours["above_built_gb"] / memory, 2),
        "official_from": source,
    }


def figures_here(path: Path) -> dict[str, dict[str, float]]:
    """The official code's figures by mode on a machine like this one; none if the file knows no such."""
    machines = {m["hardware"]: m["modes"] for m in json.loads(path.read_text())["machines"]}
    return {mode: figures["official"] for mode, figures in machines.get(hardware(), {}).items()}


def hardware() -> str:
    """What times depend on and a file can say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {instructions}, {os.cpu_count()} cores, {THREADS} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--official", type=Path, default=OFFICIAL_HERE, help="figures of the official code")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    here = figures_here(args.official)
    result: dict[str, Any] = {
        "command": f"python benchmarks/bench_model.py --repeats {args.repeats}",
        "hardware": hardware(),
        "modes": {},
    }
    for mode in args.modes:
        ours = in_new_process(measure, mode, args.repeats)
        result["modes"][mode] = ours | compare(ours, here.get(mode, {}), ELSEWHERE[mode])
    report(result, args.output)


if __name__ == "__main__":
    main()
