"""Evaluation of a drive on real files: trajectories against evo, SIGKILL, and views against vehicles."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.drives import AGENTS, SCENARIO, write_drive
from support.toy_evaluation import options, opv2v_dataset, rows_written, train_toy

from coop3d.benchmark import evaluate_run, read_result, write_report
from coop3d.benchmark.compare import compare_results
from coop3d.benchmark.compare_page import comparison_text
from coop3d.datasets import CooperativeDataset, VehicleSampling
from coop3d.datasets.opv2v import OPV2VIndex, load_rig_frame
from coop3d.evaluation.contracts import ContractSample, FrameContract
from coop3d.types import SampleKey

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"
TESTS = Path(__file__).resolve().parents[1]
FEW = "FEWER THAN 6 SCENARIOS (1): nothing is called certain, whatever the intervals"
FRAMES = [f"{68 + 2 * f:06d}" for f in range(7)]


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    root = tmp_path_factory.mktemp("drive")
    images, depth = write_drive(root, len(FRAMES))
    panoramas = train_toy(root / "panoramas", opv2v_dataset(images, depth, vehicles=2))
    pinholes = train_toy(root / "pinholes", opv2v_dataset(images, depth, "pinhole", vehicles=2))
    return root, panoramas, pinholes, OPV2VIndex(images, "test", depth)


def contract(root: Path, name: str, order: int = 1, agents=AGENTS, frames=FRAMES) -> str:
    samples = tuple(ContractSample(scenario=SCENARIO, frame=f, agents=agents) for f in frames[::order])
    path = root / f"{name}.json"
    FrameContract(name=name, split="test", samples=samples).write(path)
    return str(path)


# ---- trajectories


def pose(numbers) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3], T[:3, :3] = numbers[:3], Rotation.from_quat(numbers[3:]).as_matrix()
    return T


def by_evo(pred, true) -> list[float]:
    """RMS of APE, aligned APE, RPE in metres and degrees; the library called by hand."""
    from evo.core import metrics, sync
    from evo.core.trajectory import PoseTrajectory3D

    def rms(metric, estimate):
        metric.process_data((reference, estimate))
        return metric.get_statistic(metrics.StatisticsType.rmse)

    stamps = np.arange(len(true), dtype=float)
    reference, estimate = (PoseTrajectory3D(poses_se3=list(p), timestamps=stamps) for p in (true, pred))
    reference, estimate = sync.associate_trajectories(reference, estimate)
    relations = (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg)
    ape, *rpe = (
        rms(metrics.APE(relations[0]), estimate),
        *(rms(metrics.RPE(r, 1, metrics.Unit.frames), estimate) for r in relations),
    )
    estimate.align(reference)
    return [ape, rms(metrics.APE(relations[0]), estimate), *rpe]


def test_trajectories_of_a_drive_are_those_of_evo(drive, tmp_path):
    pytest.importorskip("evo")
    _, run, _, index = drive
    evaluation = evaluate_run(run, tmp_path, options(baselines=("mean", "gnss", "truth"), batch=3))
    world = index.T_world_rig  # from the YAML, not from what the evaluation carried along
    for entrant in evaluation.result.entrants:
        (found,) = entrant.trajectories
        assert (found.scenario, found.reference_agent, found.agent) == (SCENARIO, *AGENTS)
        assert (found.first_frame, found.poses, found.step) == ("000068", 7, 2)
        rows = [r for r in entrant.rows if not r.is_reference]
        true = [world[SampleKey(SCENARIO, AGENTS[1], r.frame)] for r in rows]
        pred = [world[SampleKey(SCENARIO, AGENTS[0], r.frame)] @ pose(r.pose_pred) for r in rows]
        expected = by_evo(pred, true)
        numbers = (found.ate_m, found.ate_aligned_m, found.rpe_m, found.rpe_deg)
        assert numbers == pytest.approx(expected, rel=1e-4, abs=2e-5)
        assert evaluation.summaries[entrant.name]["trajectory/ate_m/median"] == found.ate_m
    model, *_, truth = evaluation.result.entrants
    (perfect,) = truth.trajectories
    assert (perfect.ate_m, perfect.ate_aligned_m, perfect.rpe_m) == pytest.approx((0, 0, 0), abs=1e-4)
    assert model.trajectories[0].ate_m > 1
    assert model.intervals["trajectory/ate_m/median"].value == model.trajectories[0].ate_m
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["entrants"][0]["trajectories"] == {"count": 1, "note": ""}
    back = read_result(tmp_path)
    assert [e.trajectories for e in back.entrants] == [e.trajectories for e in evaluation.result.entrants]
    page = write_report(back).read_text()
    assert f"{SCENARIO}: 205 seen from 105, from 000068" in page
    assert (tmp_path / "plots" / "tracks.png").exists()
    assert "only 7 values" in page
    assert "only 1 values" not in page  # that the only drive is one does not make the other scores fewer


@pytest.mark.parametrize("kind", ["panoramas", "rig_centroid", "pinholes"])
def test_the_world_pose_is_that_of_the_first_view(drive, tmp_path, kind):
    """Not of the LiDAR, where the views are elsewhere."""
    _, panoramas, pinholes, index = drive
    run = pinholes if kind == "pinholes" else panoramas
    overrides = ["dataset.test.source.centre=rig_centroid"] if kind == "rig_centroid" else []
    evaluation = evaluate_run(run, tmp_path, options(baselines=("truth",)), overrides)
    frames = {(e.key.agent, e.key.frame): load_rig_frame(e) for e in index.frames}
    moved = {
        "panoramas": lambda frame: np.zeros(3),
        "rig_centroid": lambda frame: np.mean([v.T_rig_cam[:3, 3] for v in frame.views], axis=0),
        "pinholes": lambda frame: frame.views[0].T_rig_cam[:3, 3],
    }[kind]
    for entrant in evaluation.result.entrants:
        for sample in entrant.samples:
            frame = frames[AGENTS[0], sample.frame]
            wanted = (frame.T_world_rig @ [*moved(frame), 1.0])[:3]
            assert sample.T_world_ref[:3] == pytest.approx(
                wanted, abs=1e-3
            )  # mountings lie on a grid of 0.2 mm
    pytest.importorskip("evo")
    (perfect,) = evaluation.result.entrants[-1].trajectories
    assert (perfect.ate_m, perfect.rpe_m) == pytest.approx((0, 0), abs=1e-4)


def test_what_cannot_be_measured_is_said(drive, tmp_path, monkeypatch, without_plots):
    root, run, _, _ = drive
    few = contract(root, "few", frames=FRAMES[:2])
    for name, missing, conf, note in [
        ("few", False, options(frames_json=few, baselines=()), "no vehicle is seen in 3 or more consecutive frames"),
        ("alone", False, options(frames_json=few, vehicles=1, baselines=()), "no pose of another vehicle is scored"),
        ("no-evo", True, options(baselines=()), "install it with: pip install"),
    ]:  # fmt: skip
        with monkeypatch.context() as patch:
            if missing:
                patch.setitem(sys.modules, "evo", None)
            evaluation = evaluate_run(run, tmp_path / name, conf)
            page = write_report(evaluation.result).read_text()
        summary = evaluation.summaries["model"]
        assert summary["trajectory/count"] == 0
        assert math.isnan(summary["trajectory/ate_m/median"])
        content = json.loads((tmp_path / name / "metrics.json").read_text())
        assert note in content["entrants"][0]["trajectories"]["note"]
        assert len((tmp_path / name / "trajectory.csv").read_text().splitlines()) == 1
        assert ("Not measured: " in page) is (name != "alone")
        assert read_result(tmp_path / name).entrants[0].trajectories == ()


# ---- killed


def command(run: Path, folder: Path) -> list[str]:
    return [
        sys.executable, str(SCRIPT), f"checkpoint={run}", f"output_dir={folder}", "device=cpu", "num_workers=0",
        "baselines=[row,gnss,truth]", "points=true", "report=false",
    ]  # fmt: skip


def lines_of(folder: Path) -> int:
    path = folder / "journal" / "rows.0.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_kill_9_and_the_same_command_again_end_with_the_same_bits(drive, tmp_path):
    _, run, _, _ = drive
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def finish(folder: Path) -> None:
        done = subprocess.run(
            command(run, folder), env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr

    finish(whole)
    complete = lines_of(whole)
    assert complete == 4 * len(FRAMES)
    left = 0
    for _ in range(2):  # right after the first sample, and after the first that came next
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command(run, broken), env=environment, stdout=log, stderr=log)
            while process.poll() is None and lines_of(broken) <= left:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert left < lines_of(broken) < complete
        left = lines_of(broken)
        assert not (broken / "metrics.json").exists()
    before = (broken / "journal" / "rows.0.jsonl").read_bytes().splitlines(keepends=True)
    finish(broken)
    after = (broken / "journal" / "rows.0.jsonl").read_bytes()
    assert after.startswith(
        b"".join(line for line in before if line.endswith(b"\n"))
    )  # nothing was done twice
    assert lines_of(broken) == complete
    assert {"per_frame.csv", "summary.json", "trajectory.csv"} <= rows_written(whole).keys()
    assert rows_written(broken) == rows_written(whole)


# ---- comparing


def test_contracts_of_equal_samples_compare_whatever_they_are_called(drive, tmp_path):
    root, run, _, _ = drive
    files = {
        "mine": contract(root, "mine"),
        "yours": contract(root, "yours", order=-1),
        "swapped": contract(root, "swapped", agents=AGENTS[::-1]),
    }
    results = {}
    for name, file in files.items():
        evaluate_run(run, tmp_path / name, options(frames_json=file, baselines=()))
        results[name] = read_result(tmp_path / name)
    mine, yours, swapped = (results[n] for n in files)
    assert mine.contract["sha256"] != yours.contract["sha256"]
    assert mine.contract["samples_sha256"] == yours.contract["samples_sha256"]
    found = compare_results([mine, yours], resamples=100)
    assert found.warnings == (FEW,)
    assert found.differences["yours"]["range/abs_rel"].difference == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"different contracts.*swapped"):
        compare_results([mine, swapped], resamples=100)  # another reference
    earlier = replace(yours, head={**yours.head, "contract": dict(yours.contract)})
    earlier.head["contract"].pop("samples_sha256")
    with pytest.raises(ValueError, match=r"different contracts.*yours"):
        compare_results([mine, earlier], resamples=100)  # nothing says that samples are equal


def test_panoramas_and_pinholes_compare_by_vehicle(drive, tmp_path):
    _, panoramas, pinholes, _ = drive
    results = []
    for run in (panoramas, pinholes):
        evaluate_run(run, tmp_path / run.name, options(baselines=()))
        results.append(read_result(tmp_path / run.name))
    found = compare_results(results, resamples=100)
    first, second = found.entrants
    assert [len(e.rows) for e in found.entrants] == [2 * len(FRAMES)] * 2  # nothing is left out
    warning, few = found.warnings
    assert few == FEW
    assert "DIFFERENT VIEWS PER VEHICLE (panoramas 1, pinholes 4)" in warning
    assert warning in comparison_text(found)
    per_view = [r for r in results[1].entrants[0].rows if not r.is_reference]
    assert len(per_view) == 4 * len(FRAMES)
    expected = np.reshape([r.translation_error_m for r in per_view], (len(FRAMES), 4)).mean(axis=1)
    assert second.summary["pose/translation_m/median"] == pytest.approx(np.median(expected))
    assert first.summary["pose/count"] == second.summary["pose/count"] == len(FRAMES)
    unchanged = results[0].entrants[0].summary
    assert first.summary["range/abs_rel"] == unchanged["range/abs_rel"]
    pair = found.differences["pinholes"]["pose/translation_m/median"]
    assert pair.difference == pytest.approx(np.median(expected) - unchanged["pose/translation_m/median"])
    assert found.winners == {}  # one scenario says nothing of another
    only_range = compare_results(results, weights={"range/abs_rel": 1.0, "pose/rotation_deg/median": 1.0})
    only_pose = compare_results(results, weights={"pose/rotation_deg/median": 3.0})
    assert only_range.scores == pytest.approx(only_pose.scores)


def test_a_drive_is_a_dataset_like_any_other(drive):
    """The world pose travels beside the batch, and through collation."""
    from coop3d.datasets import StitchedPanoramas, collate_coop
    from coop3d.geometry import EquirectangularCamera

    index = drive[3]
    source = StitchedPanoramas(index.images_root, "test", EquirectangularCamera(56, 14), index.depth_root)
    dataset = CooperativeDataset(source, VehicleSampling(vehicles=2, max_distance_m=None))
    batch = collate_coop([dataset[2], dataset[0]]).batch
    keys = [dataset.keys_of(0, i)[0] for i in (2, 0)]
    np.testing.assert_array_equal(batch.T_world_ref, [index.T_world_rig[k] for k in keys])
    assert batch.reference_only().T_world_ref is batch.T_world_ref
