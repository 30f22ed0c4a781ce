"""Accuracy of stitched panoramas in synthetic towns, against rays traced in the same world.

python benchmarks/panorama_accuracy.py --output benchmarks/results/panorama_accuracy.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from coop3d.datasets import StitchedPanoramas
from coop3d.datasets.synthetic import Scenario, SyntheticConfig, build_scenario, make_synthetic_opv2v
from coop3d.evaluation.report import write_atomically
from coop3d.geometry import EquirectangularCamera
from coop3d.geometry.carla import opencv_points_to_carla
from coop3d.types import Panorama


def traced_range(scenario: Scenario, panorama: Panorama) -> np.ndarray:
    """[H, W] range of every pixel's own ray in the world, inf for sky; the own vehicle does not exist."""
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    origins = opencv_points_to_carla(panorama.origin_map().astype(np.float64) @ R.T + t)
    directions = opencv_points_to_carla(panorama.camera.rays() @ R.T)
    hits = scenario.trace(origins.reshape(-1, 3), directions.reshape(-1, 3), exclude=int(panorama.key.agent))
    return hits.t.reshape(panorama.range_m.shape)


def score(panorama: Panorama, truth: np.ndarray) -> dict[str, float]:
    """Shares are of valid, sky or surface pixels that some camera covers."""
    error = np.abs(panorama.range_m - truth)[panorama.valid]
    near_enough = error < np.maximum(0.05, 0.005 * truth[panorama.valid])
    surface, sky = panorama.covered & np.isfinite(truth), panorama.covered & ~np.isfinite(truth)
    judged = panorama.covered & panorama.mask_known
    return {
        "median_error_mm": 1e3 * float(np.median(error)),
        "within_5cm_or_half_percent": float(near_enough.mean()),
        "beyond_half_a_metre": float((error > 0.5).mean()),
        "surface_valid": float(panorama.valid[surface].mean()),
        "sky_valid": float(panorama.valid[sky].mean()) if sky.any() else 0.0,
        "mask_right_where_known": float((panorama.non_ambiguous == np.isfinite(truth))[judged].mean()),
        "mask_known": float(judged.sum() / panorama.covered.sum()),
        "covered": float(panorama.covered.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--towns", type=int, default=4, help="towns, two vehicles each (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    config = SyntheticConfig(
        seed=args.seed, scenarios={"train": args.towns}, frames=1, vehicles=(2, 2), workers=2
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_synthetic_opv2v(root / "images", root / "depth", config)
        camera = EquirectangularCamera(1008, 252)
        source = StitchedPanoramas(root / "images", "train", camera, depth_root=root / "depth")
        names = sorted({entry.key.scenario for entry in source.index.frames})
        for index, name in enumerate(names):
            scenario = build_scenario(config.seed, "train", index, frames=1, vehicles=config.vehicles)
            for entry in source.index.frames:
                if entry.key.scenario == name:
                    (panorama,) = source.load(entry)
                    rows.append(score(panorama, traced_range(scenario, panorama)))
    means = {key: round(float(np.mean([row[key] for row in rows])), 6) for key in rows[0]}
    result = {"panoramas": len(rows), "size": "1008x252 from four 800x600 photographs", "mean": means}
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_atomically(args.output, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
