"""Accuracy of stitched panoramas in synthetic towns on hills, against rays traced in the same world.

Every kind of panorama and every source of range; a few minutes for the default four towns.

python benchmarks/panorama_accuracy.py --output benchmarks/results/panorama_accuracy.json
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import report
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.datasets import StitchedPanoramas
from coop3d.datasets.synthetic import Scenario, SyntheticConfig, build_scenario, make_synthetic_opv2v
from coop3d.geometry import EquirectangularCamera
from coop3d.geometry.carla import opencv_points_to_carla
from coop3d.types import Panorama, RigFrame

CASES = [  # name, kind, depth source
    ("rig, dense depth", "rig", "dense"),
    ("rig, own LiDAR", "rig", "lidar"),
    ("rig, fused LiDAR", "rig", "fused"),
    ("central, dense depth", "central", "dense"),
    ("central, pretending infinite distance", "central_infinite", "dense"),
]


class World:
    """Rays in OpenCV axes through one synthetic scenario as one vehicle sees it: without that vehicle."""

    def __init__(self, scenario: Scenario, agent: str) -> None:
        self.scenario, self.agent = scenario, int(agent)

    def range_along(self, origins: NDArray[np.float64], rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """[...] metres to the first surface, inf for none."""
        shape = rays.shape
        o, d = (opencv_points_to_carla(np.broadcast_to(x, shape).reshape(-1, 3)) for x in (origins, rays))
        return self.scenario.trace(o, d, exclude=self.agent).t.reshape(shape[:-1])

    def true_range(self, panorama: Panorama) -> NDArray[np.float64]:
        """[H, W] along every pixel's own ray."""
        return self.range_along(*_world_rays(panorama))


def _world_rays(panorama: Panorama) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    return panorama.origin_map().astype(np.float64) @ R.T + t, panorama.camera.rays() @ R.T


def score(world: World, panorama: Panorama) -> dict[str, float]:
    """Shares are of valid, sky or surface pixels that some camera covers."""
    truth = world.true_range(panorama)
    error = np.abs(panorama.range_m - truth)
    valid = panorama.valid
    near_enough = error < np.maximum(0.05, 0.005 * truth)
    surface, sky = panorama.covered & np.isfinite(truth), panorama.covered & ~np.isfinite(truth)
    judged = panorama.covered & panorama.mask_known
    return {
        "median_error_mm": 1e3 * float(np.median(error[valid])),
        "within_5cm_or_half_percent": float(near_enough[valid].mean()),
        "within_10cm_or_1_percent": float((error < np.maximum(0.1, 0.01 * truth))[valid].mean()),
        "range_off_by_half_a_metre": float((error > 0.5)[valid].mean()),
        "ghosts": _ghost_share(world, panorama, valid & (error > 0.5)),
        "surface_valid": float(valid[surface].mean()),
        "sky_valid": float(valid[sky].mean()) if sky.any() else 0.0,
        "mask_right_where_known": float((panorama.non_ambiguous == np.isfinite(truth))[judged].mean()),
        "mask_known": float(judged.sum() / panorama.covered.sum()),
        "covered": float(panorama.covered.mean()),
        "valid": float(valid.mean()),
    }


def _ghost_share(world: World, panorama: Panorama, suspects: NDArray[np.bool_]) -> float:
    """Share of valid points without a surface within half a metre, looked for along 92 rays out of each point.

    Only ``suspects`` can be ghosts; of very many, 4000 drawn at random are looked at.
    """
    chosen = np.argwhere(suspects)
    total = len(chosen)
    if total == 0:
        return 0.0
    chosen = chosen[np.random.default_rng(0).permutation(total)[:4000]]
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    points = panorama.points_pano()[chosen[:, 0], chosen[:, 1]].astype(np.float64) @ R.T + t
    distance = world.range_along(
        points[:, None], np.broadcast_to(_DIRECTIONS, (len(points), *_DIRECTIONS.shape))
    )
    return float((distance.min(axis=1) > 0.5).mean() * total / panorama.valid.sum())


def _even_directions(count: int) -> NDArray[np.float64]:
    """[count, 3] unit vectors spread evenly over the sphere (golden spiral)."""
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=-1)


_DIRECTIONS = _even_directions(92)


def visibility(world: World, frame: RigFrame, panorama: Panorama) -> dict[str, float]:
    """Which LiDAR points the cameras truly see, and what the occlusion test made of them, by pixel."""
    visible, hit = np.zeros(panorama.source.shape, bool), np.zeros(panorama.source.shape, bool)
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    points = np.concatenate([sweep.points_rig for sweep in frame.sweeps]).astype(np.float64)
    seen_points = all_points = 0
    for k, origin in enumerate(panorama.origins.astype(np.float64)):
        uv, inside = panorama.camera.project(points - origin)
        column, row = uv[inside].astype(int).T
        mine = panorama.source[row, column] == k
        row, column, towards = row[mine], column[mine], (points[inside] - origin)[mine]
        distance = np.linalg.norm(towards, axis=1)
        first = world.range_along(origin @ R.T + t, (towards / distance[:, None]) @ R.T)
        seen = first > 0.99 * distance - 0.15
        hit[row, column] = True
        visible[row[seen], column[seen]] = True
        seen_points, all_points = seen_points + int(seen.sum()), all_points + len(seen)
    return {
        "points_truly_visible": seen_points / all_points,
        "kept_pixels_truly_visible": float(visible[panorama.valid].mean()),
        "visible_pixels_dropped": float(1 - panorama.valid[visible].mean()),
    }


def evaluate(root: Path, config: SyntheticConfig) -> Iterator[tuple[str, dict[str, float]]]:
    """(case, scores) of every vehicle and case."""
    camera = EquirectangularCamera(1008, 252)
    for name, kind, depth_source in tqdm(CASES, "cases"):
        source = StitchedPanoramas(
            root / "images", "train", camera, root / "depth", depth_source=depth_source, kind=kind
        )
        scenarios = sorted({entry.key.scenario for entry in source.index.frames})
        for index, scenario_name in enumerate(scenarios):
            scenario = build_scenario(config.seed, "train", index, frames=1, vehicles=config.vehicles)
            for entry in source.index.frames:
                if entry.key.scenario == scenario_name:
                    world, frame = World(scenario, entry.key.agent), source.load_frame(entry)
                    panorama = source.stitcher(frame)
                    extra = visibility(world, frame, panorama) if frame.sweeps else {}
                    yield name, {**score(world, panorama), **extra}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--towns", type=int, default=4, help="towns, three vehicles each (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    config = SyntheticConfig(
        seed=args.seed, scenarios={"train": args.towns}, frames=1, vehicles=(3, 3), workers=2
    )
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_synthetic_opv2v(root / "images", root / "depth", config)
        for name, row in evaluate(root, config):
            rows.setdefault(name, []).append(row)
    result = {
        "panoramas": len(next(iter(rows.values()))),
        "size": "1008x252 from four 800x600 photographs",
        "command": f"python benchmarks/panorama_accuracy.py --towns {args.towns} --seed {args.seed}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "mean": {
            name: {key: round(float(np.mean([r[key] for r in found])), 6) for key in found[0]}
            for name, found in rows.items()
        },
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
