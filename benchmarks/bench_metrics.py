"""Time of scoring on one CPU thread: per sample of four vehicles, and of intervals over 1000 samples.

The scene is a level street between walls, seen by four vehicles 15 m apart; predictions are the truth with noise.

python benchmarks/bench_metrics.py --output benchmarks/results/metrics.json
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from measure import median_ms, report

from coop3d.evaluation import bootstrap, compare, score_batch, score_table
from coop3d.geometry import EquirectangularCamera
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets

VEHICLES, SENSOR_M, WALL_M, FAR_M = 4, 1.9, 12.0, 100.0
SAMPLES, SCENARIOS = 1000, 16


def street(H: int, W: int, samples: int = 1, vehicles: int = VEHICLES) -> ViewTargets:
    """The walls are 12 m to both sides and 8 m high, the street ends after 100 m; above is sky."""
    rays = torch.from_numpy(EquirectangularCamera(W, H, 90.0).rays().copy()).float()
    to_ground = torch.where(rays[..., 1] > 1e-3, SENSOR_M / rays[..., 1], torch.inf)
    to_wall = WALL_M / rays[..., 0].abs().clamp_min(1e-6)
    to_end = FAR_M / rays[..., 2].abs().clamp_min(1e-6)
    range_m = to_ground.minimum(to_wall).minimum(to_end)
    surface = -rays[..., 1] * range_m < 8.0 - SENSOR_M
    T = torch.eye(4).repeat(samples, vehicles, 1, 1)
    T[:, :, 2, 3] = 15.0 * torch.arange(vehicles)

    def every(x: torch.Tensor) -> torch.Tensor:
        return x.expand(samples, vehicles, *x.shape).clone()

    return ViewTargets(
        range_m=every(torch.where(surface, range_m, torch.nan)),
        rays=every(rays),
        origins=every(torch.zeros_like(rays)),
        covered=every(torch.ones_like(surface)),
        valid=every(surface),
        non_ambiguous=every(surface),
        mask_known=every(torch.ones_like(surface)),
        source=every(torch.zeros_like(surface, dtype=torch.uint8)),
        T_ref_view=T,
        is_metric=torch.ones(samples, dtype=torch.bool),
        is_synthetic=torch.ones(samples, dtype=torch.bool),
        vehicle=torch.arange(vehicles),
    )


def noisy(targets: ViewTargets, seed: int) -> FactoredPrediction:
    """5 % of range, 0.3 m of position."""
    g = torch.Generator().manual_seed(seed)
    B, V = targets.range_m.shape[:2]
    noise = 1 + 0.05 * torch.randn(targets.range_m.shape, generator=g)
    return FactoredPrediction(
        rays=targets.rays,
        distance=targets.range_m.nan_to_num(50.0) * noise.clamp_min(0.1),
        trans=targets.T_ref_view[..., :3, 3] + 0.3 * torch.randn(B, V, 3, generator=g),
        quat_xyzw=torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(B, V, 1),
        scale=torch.ones(B),
        confidence=1 + torch.rand(targets.range_m.shape, generator=g),
        mask_logits=torch.where(targets.non_ambiguous, 1.0, -1.0),
        origins=targets.origins,
    )


def keys_of(samples: int, vehicles: int) -> list[list[SampleKey]]:
    """Samples take turns over the scenarios."""
    return [
        [SampleKey(f"s{b % SCENARIOS}", f"c{v}", f"{b:06d}") for v in range(vehicles)] for b in range(samples)
    ]


def measure(repeats: int) -> dict[str, float]:
    """Milliseconds by name."""
    out = {}
    for H, W in ((126, 504), (252, 1008)):
        targets, keys = street(H, W), keys_of(1, VEHICLES)
        prediction = noisy(targets, 0)
        for points in (False, True):
            name = f"sample_{W}x{H}{'_points' if points else ''}"
            out[name] = median_ms(lambda: score_batch(prediction, targets, keys, points), repeats)  # noqa: B023
    targets, keys = street(4, 8, SAMPLES, 3), keys_of(SAMPLES, 3)
    runs = [score_batch(noisy(targets, seed), targets, keys) for seed in (0, 1)]
    tables = [score_table(*run) for run in runs]
    out[f"table_{SAMPLES}_samples"] = median_ms(lambda: score_table(*runs[0]), repeats)
    out[f"bootstrap_{SAMPLES}_samples"] = median_ms(lambda: bootstrap(tables[0]), repeats)
    out[f"compare_{SAMPLES}_samples"] = median_ms(lambda: compare(*tables), repeats)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"machine": platform.platform(), "torch": str(torch.__version__), **measure(args.repeats)}
    report(result, args.output)


if __name__ == "__main__":
    main()
