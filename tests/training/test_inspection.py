"""Inspecting samples: truth coincides, LiDAR and boxes stand where files say, sources exchange exactly one factor."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from support.analytic_panoramas import batch, prediction
from support.opv2v_files import write_dataset

from coop3d.conf import ConfigError, compose
from coop3d.datasets.opv2v import load_boxes
from coop3d.evaluation import evaluate_batch
from coop3d.geometry import invert_rigid, transform_points
from coop3d.training.inspection.sample import Inspection, inspect_sample, open_dataset, open_run
from coop3d.training.inspection.scenario import scenario_frames, scenario_samples
from coop3d.training.inspection.summary import page_numbers, sample_summary, write_summary
from coop3d.visualization.export import export_cloud
from coop3d.visualization.point_sources import PointSources, true_scale

CPU = torch.device("cpu")


def config_of(images: Path, depth: Path, *overrides: str):
    return compose(
        "train",
        ["machine=demo", "machine.synthetic=null", "dataset=opv2v_cyl_coop_demo", "dataset.camera.width=256",
         "dataset.camera.height=64", f"machine.opv2v_images_root={images}", f"machine.opv2v_depth_root={depth}",
         *overrides],
    )  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two vehicles on a slope that look at each other, 18 m apart."""
    return write_dataset(tmp_path_factory.mktemp("opv2v"), split="test", frames=3, size=(200, 150))


@pytest.fixture(scope="module")
def dataset(roots):
    return open_dataset(config_of(*roots), "test", PointSources())


# ---- truth ----


def test_true_clouds_of_two_vehicles_coincide(dataset):
    """Where both see a surface, the points of one lie in the tangent planes of the other's."""
    inspection = inspect_sample(dataset, "test", 0, None)
    cloud = export_cloud(inspection.inputs, inspection.targets, None, inspection.keys, "truth")
    first, second = (cloud.of_vehicle(k) & np.isfinite(cloud.normals).all(axis=1) for k in (0, 1))
    distance, nearest = cKDTree(cloud.points[first]).query(cloud.points[second])
    shared = distance < 0.3
    assert shared.sum() > 500
    offset = cloud.points[second][shared] - cloud.points[first][nearest[shared]]
    normals = [cloud.normals[first][nearest[shared]], cloud.normals[second][shared]]
    smooth = (normals[0] * normals[1]).sum(axis=1) > 0.99  # not at edges, where two surfaces meet
    off_plane = np.abs((offset * normals[0]).sum(axis=1))[smooth]
    assert smooth.sum() > 300
    assert np.median(off_plane) < 1e-3
    assert np.quantile(off_plane, 0.98) < 0.02


def test_lidar_and_boxes_stand_where_the_files_say(roots, dataset):
    inspection = inspect_sample(dataset, "test", 1, None)
    scene = inspection.scene(max_points=2000)
    index = dataset.source.index
    T_world_rig = [index.T_world_rig[key] for key in inspection.keys[0]]
    sweep = np.random.default_rng(0).normal(size=(5, 3))  # what `write_frame` wrote, rig frame
    for view, T in zip(scene.views, T_world_rig, strict=True):
        truth = transform_points(invert_rigid(T_world_rig[0]) @ T, sweep)
        found = view.lidar.points[np.argsort(view.lidar.points[:, 0])]
        np.testing.assert_allclose(found, truth[np.argsort(truth[:, 0])], atol=1e-4)
    (box,) = scene.boxes
    entry = next(e for e in index.frames if e.key == inspection.keys[0][0])
    T_world_box = load_boxes(entry.yaml_path)["7"].T_world_box
    np.testing.assert_allclose(box.T_ref_box, invert_rigid(T_world_rig[0]) @ T_world_box, atol=1e-9)
    assert inspect_sample(dataset, "test", 1, None, with_lidar=False).scene(500).views[0].lidar is None


@pytest.mark.parametrize("max_points", [3, 2000, 20_000])
def test_lidar_has_its_points_from_the_budget_of_all(dataset, max_points):
    inspection = inspect_sample(dataset, "test", 0, None)
    sweeps = {v: np.random.default_rng(v).normal(size=(9000, 3)).astype(np.float32) for v in (0, 1)}
    around = replace(inspection.surroundings, lidar=sweeps)
    scene = replace(inspection, surroundings=around).scene(max_points)
    assert max_points - 2 <= sum(len(c.points) for c in scene.clouds) <= max_points
    assert [len(view.lidar.points) for view in scene.views] == [max_points // 8] * 2


@pytest.mark.parametrize("centre", ["lidar", "rig_centroid"])
def test_the_way_to_lidar_and_world_is_known_wherever_the_panorama_is_centred(roots, centre):
    dataset = open_dataset(config_of(*roots, f"dataset.centre={centre}"), "test", PointSources())
    inspection = inspect_sample(dataset, "test", 0, None)
    around = inspection.surroundings
    T_world_rig = dataset.source.index.T_world_rig[inspection.keys[0][0]]
    np.testing.assert_allclose(around.T_world_ref @ invert_rigid(around.T_lidar_ref), T_world_rig, atol=1e-9)
    assert (np.abs(around.T_lidar_ref - np.eye(4)).max() < 1e-9) == (centre == "lidar")
    # The sweep is the same in the LiDAR's frame.
    found = transform_points(around.T_lidar_ref, around.lidar[0].astype(float))
    sweep = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(found[found[:, 0].argsort()], sweep[sweep[:, 0].argsort()], atol=1e-5)


def test_missing_clouds_and_malformed_boxes_are_left_out_with_a_warning(tmp_path, caplog):
    images, depth = write_dataset(tmp_path, split="test", frames=1)
    for path in images.rglob("*.pcd"):
        path.unlink()
    for path in images.rglob("0*.yaml"):
        path.write_text(
            path.read_text().replace("extent: [", "extent: [9, ").replace("  extent:", "  extend:")
        )
    dataset = open_dataset(config_of(images, depth), "test", PointSources())
    inspection = inspect_sample(dataset, "test", 0, None)
    assert inspection.surroundings.lidar == {}
    assert inspection.surroundings.boxes == ()
    assert "no boxes" in caplog.text
    assert "extent" in caplog.text


# ---- sources ----


@pytest.fixture
def sample():
    return batch(("641", "650"))


def both(sample, **sources: str):
    pred = prediction(sample, noise=0.05, shift_m=0.8)
    pred = replace(pred, scale=pred.scale * 1.3)
    return pred, PointSources(**sources).apply(pred, sample.targets)


def test_predicted_sources_change_nothing(sample):
    pred, mixed = both(sample)
    torch.testing.assert_close(mixed.points_ref, pred.points_ref)


def test_true_pose_changes_only_the_pose(sample):
    pred, mixed = both(sample, pose="gt")
    torch.testing.assert_close(mixed.T_ref_view, sample.targets.T_ref_view, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.points_view, pred.points_view)


@pytest.mark.parametrize("depth", ["gt_dense", "gt_sparse"])
def test_true_depth_changes_only_the_range(sample, depth):
    pred, mixed = both(sample, depth=depth)
    ok = sample.targets.valid
    torch.testing.assert_close(mixed.range_m[ok], sample.targets.range_m[ok])
    assert mixed.range_m[~ok].isnan().all()
    torch.testing.assert_close(mixed.points_view[ok], sample.targets.points_view[ok], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mixed.T_ref_view, pred.T_ref_view)
    assert torch.equal(mixed.non_ambiguous, ok)


def test_true_scale_makes_the_median_ratio_one(sample):
    pred, mixed = both(sample, scale="gt")
    ok = sample.targets.valid
    assert float((mixed.range_m[ok] / sample.targets.range_m[ok]).median()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(mixed.distance, pred.distance)
    assert float(true_scale(pred, sample.targets)[0]) == pytest.approx(float(pred.scale[0]) / 1.3, rel=0.01)


def test_everything_true_is_the_truth(sample):
    _, mixed = both(sample, pose="gt", depth="gt_dense", scale="gt")
    ok = sample.targets.valid
    torch.testing.assert_close(mixed.points_ref[ok], sample.targets.points_ref[ok], atol=1e-4, rtol=1e-5)


def test_sources_without_what_they_need_are_refused(sample):
    pred = prediction(sample)
    for sources in (PointSources(pose="gt"), PointSources(depth="gt_dense"), PointSources(scale="gt")):
        with pytest.raises(ValueError, match="needs ground truth"):
            sources.apply(pred, None)
    with pytest.raises(ValueError, match="no reported poses"):
        PointSources(pose="input").apply(pred, sample.targets)
    blind = replace(sample.targets, valid=torch.zeros_like(sample.targets.valid))
    with pytest.raises(ValueError, match="no pixel has true range"):
        PointSources(scale="gt").apply(pred, blind)
    with pytest.raises(ValueError, match="pose source is 'god', expected one of pred, gt, input"):
        PointSources(pose="god")


def test_reported_poses_place_the_points(sample):
    T = sample.targets.T_ref_view.clone()
    T[0, 1, 0, 3] += 0.4
    mixed = PointSources(pose="input").apply(prediction(sample), None, T)
    torch.testing.assert_close(mixed.T_ref_view, T, atol=1e-5, rtol=0)


# ---- numbers ----


def inspection_of(sample, pred, sources: PointSources | None = None) -> Inspection:
    sources = sources or PointSources()
    shown = None if pred is None else sources.apply(pred, sample.targets)
    return Inspection(inputs=sample.inputs, targets=sample.targets, keys=sample.keys, predicted=pred, shown=shown,
                      sources=sources)  # fmt: skip


def test_the_summary_says_what_evaluation_says(tmp_path, sample):
    pred = prediction(sample, noise=0.05, shift_m=0.8)
    summary = sample_summary(inspection_of(sample, pred), split="test", index=3)
    rows = evaluate_batch(pred, sample.targets, sample.keys)
    assert summary["pose_translation_error_m"] == pytest.approx(0.8, abs=1e-4)
    assert summary["depth_abs_rel"] == pytest.approx(np.mean([r.abs_rel for r in rows]))
    assert summary["pred_scale"] == 20
    assert summary["gt_scale"] == pytest.approx(20, rel=0.01)
    assert (summary["split"], summary["index"], summary["vehicles"]) == ("test", 3, 2)
    view = summary["views"][1]
    assert view["gt_translation_m"] == pytest.approx([3, 0, 22], abs=1e-4)
    assert view["pred_translation_m"] == pytest.approx([3.8, 0, 22], abs=1e-4)
    known = sample.targets.range_m[0, 1][sample.targets.valid[0, 1]].numpy()
    assert view["depth_gt_m"]["median"] == pytest.approx(np.median(known), rel=1e-5)
    assert view["depth_gt_m"]["count"] == len(known)
    write_summary(tmp_path / "new" / "a_summary.json", summary)
    assert json.loads((tmp_path / "new" / "a_summary.json").read_text()) == summary


def test_true_poses_score_no_pose_error(sample):
    pred = prediction(sample)
    summary = sample_summary(inspection_of(sample, pred, PointSources(pose="gt", depth="gt_sparse")))
    assert summary["pose_translation_error_m"] == pytest.approx(0, abs=1e-5)
    assert summary["depth_abs_rel"] == pytest.approx(0, abs=1e-6)
    assert summary["point_depth_source"] == "gt_sparse"


def test_diverged_predictions_and_missing_truth_are_null(sample):
    pred = prediction(sample)
    broken = replace(pred, trans=torch.full_like(pred.trans, torch.nan))
    summary = sample_summary(inspection_of(sample, broken))
    assert summary["pose_translation_error_m"] is None
    assert summary["views"][0]["pred_translation_m"] == [None, None, None]
    json.dumps(summary, allow_nan=False)
    no_truth = replace(inspection_of(sample, pred), targets=None)
    assert sample_summary(no_truth)["gt_scale"] is None
    assert "AbsRel" not in page_numbers(no_truth)
    truth_alone = inspection_of(sample, None)
    assert sample_summary(truth_alone)["point_pose_source"] == "gt"
    assert page_numbers(truth_alone) == {}


# ---- opening ----


def test_open_run_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"give --checkpoint .* or --config"):
        open_run(None, None, CPU)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        open_run(None, tmp_path / "nowhere.yaml", CPU)
    for name, text in (("a.yaml", "x: 1"), ("b.yaml", "x: [1"), ("c.yaml", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=rf"{name}: (holds no 'dataset'|not a readable config)"):
            open_run(None, tmp_path / name, CPU)


def test_overrides_of_a_saved_config_replace_sections_and_change_single_keys(tmp_path):
    (tmp_path / "config.yaml").write_text("{machine: {name: demo}, dataset: {test: {max_samples: 3}}}")
    changes = ["machine=local3090", "dataset.test.max_samples=4"]
    _, config = open_run(None, tmp_path / "config.yaml", CPU, changes)
    assert (config.machine.name, config.dataset.test.max_samples) == ("local3090", 4)
    with pytest.raises(ConfigError, match=r"Did you mean 'dataset\.test\.max_samples'"):
        open_run(None, tmp_path / "config.yaml", CPU, ["dataset.test.max_sample=4"])


def test_depth_sources_reach_the_dataset(roots):
    sparse = open_dataset(config_of(*roots), "test", PointSources(depth="gt_sparse"))
    dense = open_dataset(config_of(*roots), "test", PointSources(depth="gt_dense"))
    assert (sparse.source.recipe.depth_source, dense.source.recipe.depth_source) == ("lidar", "dense")
    with pytest.raises(ValueError, match="there is no checkpoint"):
        inspect_sample(dense, "test", 0, None, PointSources(pose="gt"))
    with pytest.raises(ConfigError, match="split=all"):
        open_dataset(config_of(*roots), "all", PointSources())


def test_training_samples_are_shown_as_recorded(tmp_path):
    images, depth = write_dataset(tmp_path, split="train", frames=1)
    config = config_of(images, depth, "dataset.train.augmentation.yaw_roll=true")
    dataset = open_dataset(config, "train", PointSources())
    assert dataset.augmentation is None
    assert config.dataset.train.augmentation is not None  # the caller's config is left alone


# ---- scenarios ----


def test_frames_of_a_scenario_in_order(tmp_path):
    images, depth = write_dataset(tmp_path, split="test", scenarios=2, frames=3)
    dataset = open_dataset(config_of(images, depth), "test", PointSources())
    indices = scenario_samples(dataset, "2021_08_20_21_10_01")
    frames = [dataset.keys_of(0, i)[0].frame for i in indices]
    assert frames == ["000068", "000070", "000072"]
    assert scenario_samples(dataset, None, stride=2, max_frames=5) == scenario_samples(dataset)[::2]
    with pytest.raises(ValueError, match="no sample of scenario 'x'; this split has 2 scenarios"):
        scenario_samples(dataset, "x")
    with pytest.raises(ValueError, match="expected at least 1"):
        scenario_samples(dataset, stride=0)
    made = list(scenario_frames(dataset, "test", indices, None, 3000))
    steps = [np.linalg.norm(b.T_world_ref[:3, 3] - a.T_world_ref[:3, 3]) for a, b in pairwise(made)]
    assert steps == pytest.approx([0.7, 0.7], abs=0.01)  # `write_dataset` drives 0.7 m a frame
    assert sum(len(c.points) for f in made for c in f.scene.clouds) <= 3000


def test_samples_of_one_instant_are_named_after_their_references(sample):
    (keys,) = sample.keys
    names = {inspection_of(replace(sample, keys=(k,)), None).stem for k in (keys, keys[::-1])}
    assert names == {f"{keys[0].scenario}_{keys[0].frame}_{agent}" for agent in ("641", "650")}
