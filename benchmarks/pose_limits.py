"""What limits the pose from matches: predicted range, which cells are matched, or how exactly within a cell?

Errors of the other vehicles' poses within 30 m of the reference, with predictions replaced by the truth one after
another; about three minutes on one CPU core.

python benchmarks/pose_limits.py weights/coop3d_small_synth_v1.pth --output benchmarks/results/pose_limits.json \
    --override machine=synth_small --override dataset.panoramas=raw
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import report
from torch import Tensor
from tqdm import tqdm

from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.samples import choose_samples
from coop3d.datasets import collate_coop
from coop3d.evaluation.pose import pose_errors
from coop3d.geometry import invert_rigid, transform_points
from coop3d.geometry.cells import at_cells, cell_angle
from coop3d.geometry.ray_alignment import PointNoise, RayPoints, align
from coop3d.models.config import MatchingConfig
from coop3d.models.matched_pose import pose_from_matches
from coop3d.training.run import load_run
from coop3d.types import CoopBatch, FactoredPrediction, ViewTargets

CONTRACT = "configs/contracts/coop3d-synth-v1-small-test-nearest.json"
WITHIN_M = 30.0
EXACT_NOISE = 0.1  # cells; of directions that are known exactly
SAME_SURFACE = 0.05  # relative difference of two ranges
LEAST_MATCHES = 8


def pixels_that_see(points: Tensor, targets: ViewTargets, view: int) -> tuple[Tensor, Tensor]:
    """Pixel [N] of a view nearest to each point [N, 3] of its frame, and whether it shows that point [N]."""
    rays, origins = (x[0, view].flatten(0, 1) for x in (targets.rays, targets.origins))
    away = points
    for _ in range(4):  # the origin depends on the pixel, and hardly
        pixel = F.normalize(away, dim=-1).mm(rays.T).argmax(dim=1)
        away = points - origins[pixel]
    distance = away.norm(dim=-1)
    width = 2 * torch.pi / targets.rays.shape[3]
    towards = (away * rays[pixel]).sum(-1) / distance > np.cos(width)
    known = targets.range_m[0, view].flatten()[pixel]
    return pixel, towards & ((distance / known - 1).abs() < SAME_SURFACE)


def with_true_matches(batch: CoopBatch, p: FactoredPrediction, config: MatchingConfig, exact: bool) -> Tensor:
    """Poses [V, 4, 4] from predicted range and the true counterpart of every cell of the reference.

    Args:
        batch: of one sample.
        p: its prediction.
        config: of the matching head.
        exact: the direction in the other view is exact; else that of the middle of the cell in which it lies.
    """
    assert p.descriptors is not None
    t, grid = batch.targets, (p.descriptors.shape[2], p.descriptors.shape[3])
    H, W = t.range_m.shape[2:]
    number = torch.arange(H * W).view(H, W)
    middle = at_cells(number, grid, 0)
    rays, origins, ranges = (x[0].flatten(1, 2) for x in (t.rays, t.origins, p.range_m[..., None]))
    T = p.T_ref_view[0].clone()
    noise = PointNoise(
        angle=(EXACT_NOISE if exact else config.angle_noise) * cell_angle(rays[0, middle], grid),
        log_range=config.range_noise,
    )
    places_ref = t.points_ref[0, 0].flatten(0, 1)[middle]
    for v in range(1, len(T)):
        places = transform_points(invert_rigid(t.T_ref_view[0, v]), places_ref)
        pixel, seen = pixels_that_see(places.nan_to_num(1e6), t, v)
        pixel, places, cells = pixel[seen], places[seen], middle[seen]
        if len(cells) < LEAST_MATCHES:  # the prediction stays
            continue
        there = places - origins[v, pixel]
        if not exact:
            row, column = (pixel // W) * grid[0] // H, (pixel % W) * grid[1] // W
            pixel = middle[row * grid[1] + column]
            there = rays[v, pixel]
        a = RayPoints(origins[0, cells], rays[0, cells], ranges[0, cells, 0])
        b = RayPoints(origins[v, pixel], F.normalize(there, dim=-1), ranges[v, pixel, 0])
        T[v] = align(a, b, torch.ones(len(cells)), noise).T_a_b
    return T


def with_true_range(batch: CoopBatch, p: FactoredPrediction) -> FactoredPrediction:
    """Where the true range is known; predicted range elsewhere."""
    true = batch.targets.range_m / p.scale[:, None, None, None]
    return replace(p, distance=torch.where(true.isfinite(), true, p.distance))


def errors(found: Tensor, batch: CoopBatch) -> list[tuple[float, float]]:
    """(metres, degrees) of the other vehicles within reach."""
    e = pose_errors(found[1:], batch.targets.T_ref_view[0, 1:])
    near = e.distance_m < WITHIN_M
    return list(zip(e.translation_m[near].tolist(), e.rotation_deg[near].tolist(), strict=True))


@torch.inference_mode()
def of_run(checkpoint: Path, contract: str, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Median errors by what is replaced by the truth."""
    run = load_run(checkpoint, overrides=overrides)
    config: MatchingConfig = run.model.config.pred_head.matching
    wrap: bool = run.model.config.panorama.wrap_around
    cases: dict[str, Callable[[CoopBatch, FactoredPrediction], Tensor]] = {
        "nothing": lambda b, p: p.T_ref_view[0],
        "range": lambda b, p: pose_from_matches(with_true_range(b, p), config, wrap=wrap).T_ref_view[0],
        "matched cells": lambda b, p: with_true_matches(b, p, config, exact=False),
        "matches, exact within the cell": lambda b, p: with_true_matches(b, p, config, exact=True),
        "range and matches": lambda b, p: with_true_matches(b, with_true_range(b, p), config, exact=True),
    }
    samples = choose_samples(run, EvaluationOptions(frames_json=contract, batch=1))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for requests in tqdm(samples.batches, str(checkpoint)):
        batch = collate_coop([samples.dataset[request] for request in requests]).batch
        assert batch is not None, f"{requests} cannot be read"
        prediction = run.model(batch.inputs)
        for name, pose in cases.items():
            found[name] += errors(pose(batch, prediction), batch)
    medians = {name: np.median(values, axis=0).round(3).tolist() for name, values in found.items()}
    return {name: {"translation_m": t, "rotation_deg": r} for name, (t, r) in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames-json", default=CONTRACT, help="contract (default: %(default)s)")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                        help="change of the config saved with the run; may be repeated")  # fmt: skip
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    found = of_run(args.checkpoint, args.frames_json, args.override)
    report(
        {"contract": args.frames_json, "within_m": WITHIN_M, "median_errors_with_the_truth_of": found},
        args.output,
    )


if __name__ == "__main__":
    main()
