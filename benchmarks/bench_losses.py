"""Time and memory of every loss config that needs no teacher, on two panoramas of 252 x 1008 in float32.

Forward and backward pass of the loss alone on two CPU threads, each config in a process of its own. Predictions are
random; the views stand in one room and share an eighth of their cells (vehicles in OPV2V-like towns: a fifth). On
another machine MapAnything's own code took 0.71 s (`overall_loss_published`) and 0.70 s (`opv2v_pose_loss_published`).

python benchmarks/bench_losses.py --output benchmarks/results/losses.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_model import THREADS, H, W, hardware
from measure import in_new_process, median_ms, peak_bytes, report, resident_bytes
from torch import Tensor

from coop3d.conf import build, compose
from coop3d.geometry import EquirectangularCamera
from coop3d.types import FactoredPrediction, ViewTargets

VIEWS, GRID, DIM = 2, (36, 144), 64
ROOM_M = torch.tensor([15.0, 3.0, 20.0])  # half its size
LOSSES = (
    "match_loss", "cyl_loss", "coop_loss", "overall_loss", "opv2v_pose_loss", "overall_loss_published",
    "opv2v_pose_loss_published",
)  # fmt: skip


def room() -> ViewTargets:
    """Two vehicles in one room; only a fifth of the columns of the first have a range."""
    camera = torch.from_numpy(EquirectangularCamera(W, H).rays().copy()).float()
    rays = camera.expand(1, VIEWS, H, W, 3).contiguous()
    T = torch.eye(4).repeat(1, VIEWS, 1, 1)
    T[0, 1, :3, :3] = torch.tensor([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])
    T[0, 1, :3, 3] = torch.tensor([6.0, 0.2, 9.0])
    world = rays @ T[:, :, None, :3, :3].mT
    walls = world.sign() * ROOM_M - T[:, :, None, None, :3, 3]
    distance = (walls / world).amin(dim=-1)
    valid = torch.ones(1, VIEWS, H, W, dtype=torch.bool)
    valid[:, 0, :, W // 5 :] = False
    everywhere = torch.ones_like(valid)
    return ViewTargets(
        range_m=torch.where(valid, distance, torch.nan), rays=rays, origins=torch.zeros_like(rays),
        covered=everywhere, valid=valid, non_ambiguous=valid, mask_known=everywhere,
        source=torch.zeros_like(valid, dtype=torch.uint8), T_ref_view=T,
        is_metric=torch.ones(1, dtype=torch.bool), is_synthetic=torch.ones(1, dtype=torch.bool),
        vehicle=torch.arange(VIEWS),
    )  # fmt: skip


def prediction(rays: Tensor) -> FactoredPrediction:
    """Random; every output is a leaf that takes a gradient."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, VIEWS, *shape, generator=generator)

    made = {
        "rays": F.normalize(rays + 0.01 * random(H, W, 3), dim=-1),
        "distance": random(H, W).exp(),
        "trans": random(3),
        "quat_xyzw": F.normalize(random(4), dim=-1),
        "scale": torch.full((1,), 5.0),
        "confidence": 1 + random(H, W).exp(),
        "mask_logits": random(H, W),
        "descriptors": F.normalize(random(*GRID, DIM), dim=-1),
        "seen_logits": random(*GRID),
    }
    return FactoredPrediction(**{name: value.requires_grad_() for name, value in made.items()})


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Median time and peak memory of one config."""
    torch.set_num_threads(THREADS)
    loss = build(compose("train", [f"loss={name}"]), "loss")
    targets = room()
    predicted = prediction(targets.rays)
    before = resident_bytes()
    output = loss(predicted, targets)
    output.total.backward()  # gradients of the leaves are kept: later passes add to them
    result = {"ms": median_ms(lambda: loss(predicted, targets).total.backward(), repeats, warm_up=0)}
    result["peak_gb"] = round((peak_bytes() - before) / 1e9, 2)
    scalars = output.scalars()
    if "matching/found" in scalars:
        result["cells_with_counterpart"] = round(float(scalars["matching/found"]), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "command": f"python benchmarks/bench_losses.py --repeats {args.repeats}",
        "hardware": hardware(),
        "losses": {name: in_new_process(measure, name, args.repeats) for name in args.losses},
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
