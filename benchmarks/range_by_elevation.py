"""Range error of trained models by the elevation of the ray: above, between and below the beams of the LiDAR.

The table of the study of supervision in docs/results.md; some fifteen seconds per run on one CPU core.

python benchmarks/range_by_elevation.py outputs/studies/supervision/runs/*/seed*/train/checkpoint-last.pth \
    --output benchmarks/results/range_by_elevation.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measure import report
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.samples import choose_samples
from coop3d.datasets import collate_coop
from coop3d.datasets.synthetic.sensors import LIDAR_HIGH_DEG, LIDAR_LOW_DEG
from coop3d.training.run import load_run
from coop3d.types import CoopBatch, FactoredPrediction

CONTRACT = "configs/contracts/coop3d-synth-v1-small-test-nearest.json"
BANDS = {
    f"above {LIDAR_HIGH_DEG:g}": (LIDAR_HIGH_DEG, 90.0),
    f"{LIDAR_LOW_DEG:g} to {LIDAR_HIGH_DEG:g}": (LIDAR_LOW_DEG, LIDAR_HIGH_DEG),
    f"below {LIDAR_LOW_DEG:g}": (-90.0, LIDAR_LOW_DEG),
}  # degrees above the horizon of the panorama


def errors(batch: CoopBatch, prediction: FactoredPrediction) -> dict[str, list[float]]:
    """AbsRel of every view of a batch, by band; views without a surface in a band are not in its list."""
    truth, valid = batch.targets.range_m.numpy(), batch.targets.valid.numpy()
    elevation = np.degrees(np.arcsin(np.clip(-batch.targets.rays.numpy()[..., 1], -1, 1)))  # y points down
    relative: NDArray[np.float32] = np.abs(prediction.range_m.numpy() - truth) / truth
    found: dict[str, list[float]] = {}
    for name, (low, high) in BANDS.items():
        inside = valid & (elevation > low) & (elevation <= high)
        pairs = zip(relative.reshape(-1, *truth.shape[2:]), inside.reshape(-1, *truth.shape[2:]), strict=True)
        found[name] = [float(values[seen].mean()) for values, seen in pairs if seen.any()]
    return found


@torch.inference_mode()
def of_run(checkpoint: Path, contract: str) -> dict[str, float]:
    """Mean over views, by band."""
    run = load_run(checkpoint, torch.device("cpu"))
    samples = choose_samples(run, EvaluationOptions(frames_json=contract))
    all_errors: dict[str, list[float]] = {name: [] for name in BANDS}
    for requests in tqdm(samples.batches, str(checkpoint)):
        batch = collate_coop([samples.dataset[request] for request in requests]).batch
        assert batch is not None, f"{requests} cannot be read"
        for name, values in errors(batch, run.model(batch.inputs)).items():
            all_errors[name] += values
    return {name: round(float(np.mean(values)), 3) for name, values in all_errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--frames-json", default=CONTRACT, help="contract (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    found = {str(path): of_run(path, args.frames_json) for path in args.checkpoints}
    report({"contract": args.frames_json, "abs_rel_by_elevation_deg": found}, args.output)


if __name__ == "__main__":
    main()
