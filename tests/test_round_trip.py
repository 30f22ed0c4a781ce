"""Synthetic world -> files -> photographs and depth -> panorama -> points, against rays traced in the world."""

import numpy as np
import pytest

from coop3d.datasets import CooperativeDataset, StitchedPanoramas, VehicleSampling
from coop3d.datasets.doctor import examine
from coop3d.datasets.opv2v import load_rig_frame
from coop3d.datasets.synthetic import SyntheticConfig, build_scenario, make_synthetic_opv2v
from coop3d.geometry import EquirectangularCamera
from coop3d.geometry.carla import opencv_points_to_carla
from coop3d.stitching import PanoramaStitcher

CONFIG = SyntheticConfig(seed=3, image_size=(800, 600), scenarios={"train": 1}, frames=1, vehicles=(2, 2))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    make_synthetic_opv2v(root / "images", root / "depth", CONFIG, progress=False)
    return StitchedPanoramas(
        root / "images", "train", EquirectangularCamera(1008, 252), depth_root=root / "depth"
    )


@pytest.fixture(scope="module")
def scenario():
    return build_scenario(CONFIG.seed, "train", 0, frames=CONFIG.frames, vehicles=CONFIG.vehicles)


def true_range(scenario, panorama, agent: int) -> np.ndarray:
    """Range of every pixel's own ray, traced in the world's axes without the own vehicle."""
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    origins = panorama.origin_map().astype(np.float64) @ R.T + t
    directions = panorama.camera.rays() @ R.T
    hits = scenario.trace(
        opencv_points_to_carla(origins).reshape(-1, 3),
        opencv_points_to_carla(directions).reshape(-1, 3),
        exclude=agent,
    )
    return hits.t.reshape(panorama.range_m.shape)


def test_the_road_is_not_flat(source):
    """Otherwise the conventions of roll and pitch would go untested below."""
    tilts = [np.degrees(np.arccos(T[1, 1])) for T in source.index.T_world_rig.values()]
    assert max(tilts) > 0.3


def test_panorama_points_lie_where_the_world_says(source, scenario):
    for entry in source.index.frames:
        (panorama,) = source.load(entry)
        truth = true_range(scenario, panorama, int(entry.key.agent))
        error = np.abs(panorama.range_m - truth)[panorama.valid]
        assert np.median(error) < 1e-3
        assert (error < 0.05).mean() > 0.99
        assert (error > 0.5).mean() < 5e-3  # beside edges, the other of both surfaces
        surface = np.isfinite(truth) & panorama.covered
        assert panorama.valid[surface].mean() > 0.97
        judged = panorama.mask_known & panorama.covered
        assert (panorama.non_ambiguous == np.isfinite(truth))[judged].mean() > 0.999
        assert judged.sum() > 0.95 * panorama.covered.sum()


def test_a_wrong_convention_would_be_noticed(source, scenario):
    """Turning the pitch's sign, or the handedness of roll, moves points far beyond the bounds above."""
    entry = source.index.frames[0]
    frame = load_rig_frame(entry)
    (panorama,) = source.load(entry)
    mirrored = np.diag([1.0, -1.0, 1.0, 1.0])
    from dataclasses import replace

    wrong = PanoramaStitcher(source.stitcher.camera)(
        replace(frame, T_world_rig=mirrored @ frame.T_world_rig @ mirrored)
    )
    error = np.abs(wrong.range_m - true_range(scenario, wrong, int(entry.key.agent)))[panorama.valid]
    assert np.median(error) > 0.05


def test_the_doctor_finds_nothing_wrong(source):
    report = examine(CooperativeDataset(source, VehicleSampling(2, max_distance_m=None)), num_samples=1)
    assert report.ok, report.to_table()
    assert all(check.ok for check in report.checks)
