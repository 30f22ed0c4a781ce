"""One GPU at the published sizes: time, memory and utilisation of forward pass and training step; what presets need.

A training step is the trainer's own (`OptimiserStep`: forward pass, losses, backward pass, clipping, AdamW), on
panoramas with made-up contents; a forward pass is what `infer` runs. Peaks are the allocator's, in GiB, beside the
estimate of docs/model.md, which leaves out losses and the allocator's slack. ``mfu`` counts useful operations only
(what checkpointing computes again is none) over the vendor's peak, ``share_of_product_speed`` over a product of two
large bf16 matrices here. What does not fit says ``out_of_memory``. Runs on a CPU too, where there are no peaks.

python benchmarks/bench_gpu.py --output benchmarks/results/gpu.json
python benchmarks/bench_gpu.py --models mapanything --views 2 4 --presets full heads     # a part of it
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_model import H, W, hardware
from bench_presets import GPUS, PANORAMAS, PRESETS
from measure import median_ms
from torch import nn
from tqdm import tqdm

from coop3d.conf import Precision, build, compose
from coop3d.datasets.coop import make_batch
from coop3d.files import write_text
from coop3d.geometry.cameras import EquirectangularCamera
from coop3d.models import MapAnything
from coop3d.models.memory import GIB, Workload, estimate_memory
from coop3d.models.presets import count_all
from coop3d.training.distributed import Processes, set_backend_flags
from coop3d.training.flops import BACKWARD_FACTOR, FlopCounter
from coop3d.training.guard import LossGuard
from coop3d.training.interval import peak_tflops
from coop3d.training.memory_need import CHECKPOINTED
from coop3d.training.network import build_network, network_config, preset_of
from coop3d.training.out_of_memory import GpuMemoryError
from coop3d.training.schedule import make_optimizer, parameter_groups
from coop3d.training.step import Objective, OptimiserStep, Sums, forward_dtype, make_autocast
from coop3d.types import CoopBatch, Panorama, SampleKey

MODELS = ("mapanything", "mapanything_v1_1")
VIEWS = (2, 4, 8)
MODES = ("forward", "train", "train_checkpointed")
LOSS = "opv2v_pose_loss"
WARM_UP = 2  # the first step makes AdamW's state, both choose kernels


@dataclass(frozen=True)
class Case:
    """What is measured once."""

    model: str
    views: int
    mode: str  # of MODES
    preset: str = "full"


def measure(case: Case, size: tuple[int, int], device: torch.device, repeats: int) -> dict[str, Any]:
    """Median time, peaks and operations of a case; a dictionary that says so where memory does not suffice."""
    checkpointing = str(case.mode == "train_checkpointed").lower()
    overrides = (f"model={case.model}", f"preset={case.preset}", f"loss={LOSS}")
    overrides += tuple(f"{key}={checkpointing}" for key in CHECKPOINTED)
    cfg = compose("train", overrides)
    batch = made_up_batch(case.views, size)
    result = {**vars(case), **estimates(cfg, case, size, device)}
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with device:
            model = build_network(cfg)
        assert isinstance(model, MapAnything)
        seconds = median_seconds(task_of(case, cfg, model, batch, device), repeats, device)
    except (torch.OutOfMemoryError, GpuMemoryError):
        return {**result, "out_of_memory": True}
    result |= {"ms": round(1e3 * seconds, 1), "views_per_second": round(case.views / seconds, 1)}
    if on_gpu:
        result["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 2)
        result["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 2)
    if case.preset == "full":  # of frozen parts, what the backward pass saves is not counted
        operations = FlopCounter(model).of_step(batch.inputs)
        tflops = operations / (BACKWARD_FACTOR if case.mode == "forward" else 1) / seconds / 1e12
        result["tflops"] = float(f"{tflops:.3g}")
    result["parameters_m"] = round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
    result["trained_m"] = round(count_all(model).trainable / 1e6, 3)
    return result


def estimates(cfg: Any, case: Case, size: tuple[int, int], device: torch.device) -> dict[str, float]:
    """GiB that the preflight expects of a training step, without its reserve: on this GPU, and on each of ten."""
    if case.mode == "forward":
        return {}
    config, preset = network_config(cfg), preset_of(cfg)
    assert config is not None
    bf16 = forward_dtype(Precision.auto, device) is torch.bfloat16
    memory = estimate_memory(
        config, Workload(views=case.views, height=size[0], width=size[1], bf16=bf16), preset
    )
    return {
        "estimated_gib": round(memory.ddp(1) / GIB, 2),
        f"estimated_fsdp_{GPUS}_gib": round(memory.fsdp(GPUS) / GIB, 2),
    }


def task_of(
    case: Case, cfg: Any, model: MapAnything, batch: CoopBatch, device: torch.device
) -> Callable[[], Any]:
    """What is timed: one forward pass without gradients, or one step of training."""
    autocast = make_autocast(Precision.auto, device)
    if case.mode == "forward":
        model.eval()
        inputs = batch.inputs.to(device)

        def forward() -> None:
            with torch.no_grad(), autocast():
                model(inputs)

        return forward
    me = Processes(rank=0, world_size=1, device=device)
    loss: nn.Module = build(cfg, "loss")
    optimizer = make_optimizer(parameter_groups(model, 1e-6, 0.05, 1.0), (0.9, 0.95))
    objective = Objective(loss_function=loss.to(device), autocast=autocast)
    step = OptimiserStep(model.train(), objective, optimizer, 1.0, LossGuard(1e6), me)
    return lambda: step([batch], good=1, everyone_has_some=True, sums=Sums())


def median_seconds(task: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Wall time of the task, the GPU's part included."""

    def finished() -> None:
        task()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return median_ms(finished, repeats, WARM_UP) / 1e3


def made_up_batch(views: int, size: tuple[int, int]) -> CoopBatch:
    """One sample of so many panoramas 10 m apart, with noise for photographs, inside a sphere."""
    generator = np.random.default_rng(0)
    camera = EquirectangularCamera(width=size[1], height=size[0], vfov_deg=90.0)
    everywhere = np.ones(size, bool)

    def panorama(i: int) -> Panorama:
        T_world_pano = np.eye(4)
        T_world_pano[2, 3] = 10.0 * i
        return Panorama(
            key=SampleKey("made_up", str(i), "000000"),
            camera=camera,
            kind="rig",
            rgb=generator.integers(0, 256, (*size, 3), dtype=np.uint8),
            range_m=generator.uniform(5.0, 50.0, size).astype(np.float32),
            source=np.zeros(size, np.uint8),
            origins=np.zeros((1, 3), np.float32),
            covered=everywhere,
            valid=everywhere,
            non_ambiguous=everywhere,
            mask_known=everywhere,
            T_world_pano=T_world_pano,
        )

    return make_batch([(panorama(i),) for i in range(views)])


def product_tflops(device: torch.device) -> float:
    """Speed of a large matrix product in the type of the forward pass, 1e12 operations per second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (
        torch.randn(size, size, device=device, dtype=forward_dtype(Precision.auto, device)) for _ in range(2)
    )
    return 2 * size**3 / 1e12 / median_seconds(lambda: a @ b, 10, device)


def cases_of(models: list[str], views: list[int], presets: list[str]) -> list[Case]:
    """Sizes and views first, then what each preset needs for four panoramas of the largest model."""
    sizes = [Case(model, n, mode) for model in models for n in views for mode in MODES]
    return sizes + [Case(models[-1], PANORAMAS, "train_checkpointed", name) for name in presets]


def main() -> None:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the training scripts
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="configs/model")
    parser.add_argument("--views", nargs="+", type=int, default=list(VIEWS))
    parser.add_argument(
        "--presets", nargs="*", default=[p for p in PRESETS if p != "full"], help="of the last model"
    )
    parser.add_argument("--size", nargs=2, type=int, default=(H, W), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    set_backend_flags(tf32=True)
    product, vendor = product_tflops(device), peak_tflops(device)
    result: dict[str, Any] = {
        "command": "python benchmarks/bench_gpu.py",
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else hardware(),
        "torch": torch.__version__,
        "workload": f"panoramas of {args.size[1]} x {args.size[0]}, batch 1, loss={LOSS}",
        "precision": str(forward_dtype(Precision.auto, device)),
        "product_tflops": float(f"{product:.3g}"),
        "vendor_peak_tflops": vendor,
        "cases": [],
    }
    for case in tqdm(cases_of(args.models, args.views, args.presets), unit="case"):
        found = measure(case, tuple(args.size), device, args.repeats)
        if "tflops" in found:
            found["share_of_product_speed"] = round(found["tflops"] / product, 3)
            found["mfu"] = None if vendor is None else round(found["tflops"] / vendor, 3)
        result["cases"].append(found)
        tqdm.write(json.dumps(found))
        if args.output is not None:  # after every case: a lost machine loses one
            write_text(args.output, json.dumps(result, indent=2) + "\n")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
