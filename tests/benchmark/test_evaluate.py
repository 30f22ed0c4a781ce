"""Evaluation end to end on toy and small real files: same samples for all, resumed, shared, refused where it must."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil

import pytest
from support.opv2v_files import write_dataset
from support.processes import run_ranks
from support.toy_evaluation import options, opv2v_dataset, rows_written, train_toy
from support.toy_run import ToyDataset

from coop3d.benchmark import (
    EvaluationOptions,
    FolderError,
    evaluate_run,
    make_contract,
    read_result,
    write_report,
)
from coop3d.benchmark.baselines import BASELINES
from coop3d.benchmark.options import options_of
from coop3d.conf import CONFIG_DIR, ConfigError, compose
from coop3d.datasets import BadSample, VehicleSampling
from coop3d.datasets.opv2v import OPV2VIndex
from coop3d.evaluation.contracts import ContractError, load_contract

TOWN = ((0.0, 0.0, 0.0), (3.0, 18.0, 20.0), (-2.0, 40.0, 180.0))


def test_model_and_baselines_are_scored_on_the_same_samples(toy_run, tmp_path):
    result = evaluate_run(toy_run, tmp_path, options(split="test", batch=2, max_samples=8))
    assert next(iter(result.summaries)) == "model"
    assert len(result.summaries) == 7
    samples = [i * 10 // 8 for i in range(8)]  # evenly spread; 3 is among them and cannot be read
    views = sum(ToyDataset(10).num_views_of(0, i) for i in samples if i != 3)
    assert {s["views"] for s in result.summaries.values()} == {views}
    assert [b.key for b in result.bad] == ["town/0/000003 + town/1/000003 + town/2/000003"]
    with (tmp_path / "per_frame.csv").open() as file:
        assert len(list(csv.DictReader(file))) == views
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["range/abs_rel"] == pytest.approx(result.summaries["model"]["range/abs_rel"])
    assert "mean displacement" in (tmp_path / "table.txt").read_text()
    assert result.summaries["ground truth"]["range/abs_rel"] == pytest.approx(0, abs=1e-6)
    assert result.summaries["ground truth"]["pose/translation_m/p90"] == pytest.approx(0, abs=1e-5)


def test_the_config_has_the_options_and_its_help_the_baselines():
    cfg = compose("evaluate", ["checkpoint=[a.pth,b.pth]", "output_dir=y"])
    assert options_of(cfg, EvaluationOptions) == EvaluationOptions()
    assert cfg.checkpoint == ["a.pth", "b.pth"]
    words = re.findall(r"\w+", (CONFIG_DIR / "evaluate.yaml").read_text(encoding="utf-8"))
    assert set(BASELINES) <= set(words)


def test_the_result_does_not_depend_on_the_batch(toy_run, tmp_path):
    a, b = (evaluate_run(toy_run, tmp_path / str(n), options(split="val", batch=n)) for n in (1, 3))
    for name in a.summaries:
        assert a.summaries[name] == pytest.approx(b.summaries[name], rel=1e-5, nan_ok=True)


def test_metrics_json_says_how_numbers_came_about(toy_run, tmp_path):
    evaluation = evaluate_run(toy_run, tmp_path, options(inputs="images+rays"))
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert {"contract", "mode", "code", "environment", "options", "config", "times", "bad_samples"} <= set(
        content
    )
    assert content["contract"]["sha256"] == load_contract(tmp_path / "contract.json").digest
    model, *others = content["entrants"]
    assert model["inputs"] == "images+rays"
    assert len(model["checkpoint"]["sha256"]) == 64
    assert model["checkpoint"]["step"] == 12
    assert {e["inputs"] for e in others} == {"images+rays+rig", "truth"}
    interval, value = model["intervals"]["range/abs_rel"], model["summary"]["range/abs_rel"]
    assert interval["low"] - 1e-9 <= value <= interval["high"] + 1e-9  # one scenario: an interval of no width
    back = read_result(tmp_path)
    assert repr([e.rows for e in back.entrants]) == repr(
        [e.rows for e in evaluation.result.entrants]
    )  # NaN != NaN


# ---- resuming


def test_a_killed_evaluation_goes_on_where_it_stopped(toy_run, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate_run(toy_run, whole, options(max_samples=9))
    read, load = [], ToyDataset.__getitem__

    def interrupted(self, request):
        read.append(request[1])
        if (
            self.size == 10 and len([i for i in read if i >= 0]) > 12 + 5
        ):  # 12 of the training split came first
            raise KeyboardInterrupt
        return load(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(ToyDataset, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(toy_run, broken, options(max_samples=9))
    assert not (broken / "metrics.json").exists()
    with (broken / "journal" / "rows.0.jsonl").open("a") as file:
        file.write('{"entrant":"model","sample":"to')  # killed while it wrote
    again: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            ToyDataset, "__getitem__", lambda self, r: again.append((self.size, r[1])) or load(self, r)
        )
        evaluate_run(toy_run, broken, options(max_samples=9))
    assert rows_written(broken) == rows_written(whole)
    redone = [index for size, index in again if size == 10]
    assert len(redone) == 9 - 5  # five were predicted, and scored before the process ended
    assert 3 in redone  # could not be read before: tried again
    again.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            ToyDataset, "__getitem__", lambda self, r: again.append((self.size, r[1])) or load(self, r)
        )
        evaluate_run(toy_run, broken, options(max_samples=9))
    assert [index for size, index in again if size == 10] == [3]
    assert rows_written(broken) == rows_written(whole)


def test_a_foreign_line_in_the_journal_is_named(toy_run, tmp_path):
    evaluate_run(toy_run, tmp_path, options(max_samples=4, baselines=()))
    path = tmp_path / "journal" / "rows.0.jsonl"
    path.write_text('{"entrant": "model"}\n' + path.read_text())
    with pytest.raises(FolderError, match=r"rows\.0\.jsonl:1: is no record of this code"):
        evaluate_run(toy_run, tmp_path, options(max_samples=4, baselines=()))


# ---- processes


def _work(_: int, toy_run, folder, conf) -> None:
    evaluation = evaluate_run(toy_run, folder, conf)
    assert len(evaluation.bad) == 1  # every process knows everything


def test_two_processes_give_the_bits_of_one(toy_run, tmp_path):
    conf = options(split="test")
    evaluate_run(toy_run, tmp_path / "one", conf)
    run_ranks(_work, toy_run, tmp_path / "two", conf)
    assert rows_written(tmp_path / "two") == rows_written(tmp_path / "one")
    pytest.importorskip("evo")
    drives = read_result(tmp_path / "two").entrants[0].trajectories  # 3 cannot be read, which ends a drive
    assert {(d.agent, d.first_frame, d.poses) for d in drives} == {("1", "000000", 3), ("1", "000004", 6)}
    journals = sorted((tmp_path / "two" / "journal").glob("rows.*.jsonl"))
    parts = [{json.loads(line)["sample"] for line in p.read_text().splitlines()} for p in journals]
    assert len(parts) == 2
    assert min(map(len, parts)) >= 4
    assert not parts[0] & parts[1]


# ---- folders


def test_other_samples_in_the_folder_are_refused_and_other_weights_moved_aside(toy_run, tmp_path, caplog):
    evaluate_run(toy_run, tmp_path, options(max_samples=5, baselines=()))
    before = rows_written(tmp_path)
    with pytest.raises(FolderError, match="evaluation of other samples"):
        evaluate_run(toy_run, tmp_path, options(max_samples=4, baselines=()))
    assert rows_written(tmp_path) == before
    other = train_toy(tmp_path.parent / f"{tmp_path.name}_other", lr=1e-3)
    evaluate_run(other, tmp_path, options(max_samples=5, baselines=()))
    assert rows_written(tmp_path / "earlier-1") == before
    assert rows_written(tmp_path) != before
    assert "made with other model) is now in" in caplog.text
    evaluate_run(toy_run, tmp_path, options(max_samples=4, baselines=(), restart=True))
    assert (tmp_path / "earlier-2" / "metrics.json").exists()


def test_new_baselines_join_an_evaluation_and_the_model_is_not_asked_again(toy_run, tmp_path, monkeypatch):
    evaluate_run(toy_run, tmp_path, options(max_samples=5, baselines=()))
    before = (tmp_path / "per_frame.csv").read_bytes()
    evaluate_run(toy_run, tmp_path, options(max_samples=5, baselines=("truth",)))
    assert (tmp_path / "per_frame.csv").read_bytes() == before
    assert (tmp_path / "per_frame_ground_truth.csv").exists()
    lines = [
        json.loads(line)["entrant"]
        for line in (tmp_path / "journal" / "rows.0.jsonl").read_text().splitlines()
    ]
    assert lines.count("model") == lines.count("ground truth")


def test_a_folder_that_cannot_be_made_is_named(toy_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"cannot write .*file/x \(Not a directory\); choose another output_dir"
    ):
        evaluate_run(toy_run, tmp_path / "file" / "x", options(max_samples=1, baselines=()))


def test_files_of_unknown_origin_are_not_overwritten(toy_run, tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(FolderError, match=r"holds config\.yaml, which no evaluation wrote"):
        evaluate_run(toy_run, tmp_path, options(max_samples=2))
    assert (tmp_path / "config.yaml").read_text() == "mine"
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("mine")
    with pytest.raises(FolderError, match="which no evaluation wrote"):
        evaluate_run(toy_run, tmp_path / "other", options(max_samples=2, restart=True))


def test_rows_of_another_revision_of_the_code_are_said(toy_run, tmp_path, monkeypatch, caplog):
    for revision in ("one", "two"):
        monkeypatch.setattr("coop3d.benchmark.journal.git_revision", lambda r=revision: {"revision": r})
        evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
        known = json.loads((tmp_path / "metrics.json").read_text())["code_of_rows"]
    assert known == ["one", "two"]
    assert "rows of 2 revisions of the code (one, two); restart=true" in caplog.text
    identity = tmp_path / "journal" / "identity.json"
    earlier = json.loads(identity.read_text())
    del earlier["code"]  # as code wrote it that did not say who it was
    identity.write_text(json.dumps(earlier))
    found = evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
    assert found.result.head["code_of_rows"] == ["two", "unknown"]


def test_rows_of_changed_code_and_of_another_arithmetic_are_not_the_same(
    toy_run, tmp_path, monkeypatch, caplog
):
    for dirty in (False, True):
        git = {"revision": "a" * 40, "dirty": dirty}
        monkeypatch.setattr("coop3d.benchmark.journal.git_revision", lambda git=git: git)
        found = evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
    assert found.result.head["code_of_rows"] == ["a" * 40, "a" * 40 + "+dirty"]
    assert "(aaaaaaaaaaaa, aaaaaaaaaaaa+dirty); restart=true" in caplog.text
    path = tmp_path / "journal" / "identity.json"
    stored = json.loads(path.read_text())
    assert stored["settings"].pop("arithmetic") == "float32 on cpu"
    path.write_text(json.dumps(stored))  # of a journal that does not say: gone on with
    evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
    assert not (tmp_path / "earlier-1").exists()
    stored["settings"]["arithmetic"] = "bfloat16 on cuda"
    path.write_text(json.dumps(stored))
    evaluate_run(toy_run, tmp_path, options(max_samples=2, baselines=()))
    assert "made with other arithmetic) is now in" in caplog.text
    assert (tmp_path / "earlier-1").exists()


# ---- several checkpoints


def test_several_checkpoints_in_one_call(tmp_path):
    paths = [tmp_path / "run" / f"checkpoint-{n}.pth" for n in (1, 2, 3)]
    paths[0].parent.mkdir()
    for n, path in enumerate(paths, 1):
        shutil.copy(train_toy(tmp_path / f"run{n}", epochs=n) / "checkpoint-last.pth", path)
    evaluation = evaluate_run(paths, tmp_path / "all", options(baselines=("truth",)))
    names = [f"checkpoint-{n}" for n in (1, 2, 3)]
    assert list(evaluation.summaries) == [*names, "ground truth"]
    assert [e.checkpoint["step"] for e in evaluation.result.models] == [4, 8, 12]
    alone = evaluate_run(paths[1], tmp_path / "alone", options(baselines=()))
    assert alone.summaries["model"] == pytest.approx(evaluation.summaries[names[1]], nan_ok=True, rel=0)
    assert alone.summaries["model"] != pytest.approx(evaluation.summaries[names[0]], nan_ok=True, rel=1e-6)
    assert "Over training steps" in write_report(evaluation.result).read_text()
    with pytest.raises(ConfigError, match="one file twice"):
        evaluate_run([paths[0], paths[0]], tmp_path / "twice", options())


def test_what_one_entrant_lacks_is_left_out_of_all(tmp_path, monkeypatch):
    """A file that cannot be read in one pass only; the next call finds it."""
    paths = [train_toy(tmp_path / f"run{n}", epochs=n) / "checkpoint-last.pth" for n in (1, 2)]
    load, reads = ToyDataset.__getitem__, []

    def unreadable_once(self, request):
        reads.append(request[1])
        if self.size == 10 and request[1] == 5 and reads.count(5) == 2:
            return BadSample(self.keys_of(*request), "/data/5.png: device busy")
        return load(self, request)

    monkeypatch.setattr(ToyDataset, "__getitem__", unreadable_once)
    evaluation = evaluate_run(paths, tmp_path / "all", options(baselines=("truth",)))
    frames = [[s.frame for s in e.samples] for e in evaluation.result.entrants]
    assert frames == [[f"{i:06d}" for i in range(10) if i not in (3, 5)]] * 3
    assert "8 samples, 2 unreadable (1 for some entrants only: left out of all)" in evaluation.table
    (dropped,) = json.loads((tmp_path / "all" / "metrics.json").read_text())["dropped"]
    assert dropped == {
        "sample": "town/000005 0+1", "not_scored_for": ["run2/checkpoint-last"], "reason": "/data/5.png: device busy",
    }  # fmt: skip
    again = evaluate_run(paths, tmp_path / "all", options(baselines=("truth",)))
    assert {len(e.samples) for e in again.result.entrants} == {9}
    assert again.result.head["dropped"] == []


# ---- contracts, on real files


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    images, depth = write_dataset(root, "test", scenarios=2, frames=2, positions=TOWN)
    run = train_toy(root / "run", opv2v_dataset(images, depth, vehicles=2))
    pinhole = train_toy(root / "pinhole", opv2v_dataset(images, depth, "pinhole", vehicles=2))
    index = OPV2VIndex(images, "test", depth)
    contract = make_contract(index, "town-v1", VehicleSampling(vehicles=(2, 3), max_distance_m=None), seed=1)
    contract.write(root / "town.json")
    return root, run, pinhole, contract


def test_a_contract_loads_exactly_its_vehicles_in_its_order(town, tmp_path):
    root, run, _, contract = town
    assert len(contract.samples) == 4
    assert contract.vehicles == (2, 3)
    evaluation = evaluate_run(
        run, tmp_path, options(frames_json=str(root / "town.json"), baselines=("truth",))
    )
    rows = evaluation.result.entrants[0].rows
    wanted = [key for sample in contract.samples for key in sample.keys]
    assert [(r.scenario, r.agent, r.frame) for r in rows] == [tuple(key) for key in wanted]
    far = [
        max(r.distance_m for r in rows if r.view and (r.scenario, r.frame) == (s.scenario, s.frame))
        for s in contract.samples
    ]
    assert far == pytest.approx([s.distance_m for s in contract.samples], abs=0.01)
    assert evaluation.result.head["mode"] == "cooperative panoramas"
    for entrant in read_result(tmp_path).entrants:
        assert entrant.views["views"] == "panoramas"
        assert (entrant.views["kind"], entrant.views["width"], entrant.views["height"]) == ("rig", 56, 14)


def test_modes_single_vehicle_and_pinholes(town, tmp_path):
    root, run, pinhole, contract = town
    conf = options(frames_json=str(root / "town.json"), vehicles=1, baselines=("row", "truth"))
    single = evaluate_run(run, tmp_path / "single", conf)
    assert single.result.head["mode"] == "single vehicle"
    assert single.summaries["model"]["views"] == 4
    assert math.isnan(single.summaries["model"]["pose/translation_m/median"])
    assert write_report(single.result).exists()
    conf = options(frames_json=str(root / "town.json"), baselines=("mean", "classical", "truth"))
    views = evaluate_run(pinhole, tmp_path / "pinhole", conf)
    assert views.result.head["mode"] == "cooperative pinholes"
    assert list(views.summaries) == ["model", "mean displacement + constant depth", "ground truth"]
    assert views.summaries["model"]["views"] == 4 * sum(len(s.agents) for s in contract.samples)


def test_a_contract_is_scored_whole(town, tmp_path):
    conf = options(frames_json=str(town[0] / "town.json"), max_samples=2)
    with pytest.raises(ConfigError, match=r"max_samples=2 .*town\.json.* is scored whole"):
        evaluate_run(town[1], tmp_path / "out", conf)
    assert not (tmp_path / "out").exists()


def test_frames_missing_on_disk_are_named_or_counted(town, tmp_path):
    root, run, _, contract = town
    other, _ = write_dataset(tmp_path, "test", scenarios=1, frames=2, positions=TOWN)
    depth = tmp_path / "depth"
    overrides = [f"dataset.test.source.images_root={other}", f"dataset.test.source.depth_root={depth}"]
    conf = options(frames_json=str(root / "town.json"), baselines=())
    with pytest.raises(ContractError, match=r"(?s)2 of 4 samples are not.*on_missing=skip") as caught:
        evaluate_run(run, tmp_path / "out", conf, overrides)
    assert str(contract.samples[-1]) in str(caught.value)
    conf = options(frames_json=str(root / "town.json"), baselines=(), on_missing="skip")
    evaluation = evaluate_run(run, tmp_path / "out", conf, overrides)
    assert len(evaluation.result.entrants[0].samples) == 2
    assert [b.reason for b in evaluation.bad] == ["is not on disk"] * 2
    assert "2 samples, 2 unreadable" in evaluation.table


def test_a_pose_that_cannot_be_read_is_a_missing_frame(town, tmp_path):
    root, run, _, contract = town
    images, depth = write_dataset(tmp_path, "test", scenarios=2, frames=2, positions=TOWN)
    scenario, agent, frame = contract.samples[0].keys[1]
    (images / "test" / scenario / agent / f"{frame}.yaml").write_text("lidar_pose: nonsense\n")
    overrides = [f"dataset.test.source.images_root={images}", f"dataset.test.source.depth_root={depth}"]
    conf = options(frames_json=str(root / "town.json"), baselines=(), on_missing="skip")
    evaluation = evaluate_run(run, tmp_path / "out", conf, overrides)
    assert str(contract.samples[0]) in {b.key for b in evaluation.bad}


def test_baselines_are_fitted_on_what_was_recorded(town, tmp_path):
    """Augmentation turns panoramas by chance; then a mean displacement means nothing."""
    root, *_ = town
    dataset = opv2v_dataset(root / "images", root / "depth", vehicles=2)
    turned = {"_target_": "coop3d.datasets.Augmentation", "yaw_roll": True}
    found = []
    for name, augmentation in (("plain", None), ("turned", turned)):
        nodes = {**dataset, "train": {**dataset["train"], "augmentation": augmentation}}
        run = train_toy(tmp_path / name, nodes)
        found.append(evaluate_run(run, tmp_path / f"{name}_scores", options(baselines=("mean", "row"))))
    for name in ("mean displacement + constant depth", "mean displacement + row depth"):
        assert found[1].summaries[name] == pytest.approx(found[0].summaries[name], rel=0, nan_ok=True)


def test_truth_without_any_range_is_an_error_that_says_what_to_do(town, tmp_path):
    _, run, _, _ = town
    overrides = [f"dataset.{split}.source.depth_root=null" for split in ("train", "test")]
    with pytest.raises(ConfigError, match=r"baselines cannot be fitted.*baselines=\[gnss,truth\]"):
        evaluate_run(run, tmp_path, options(), [*overrides, *none_of(("train", "test"))])
    evaluation = evaluate_run(
        run, tmp_path, options(baselines=("gnss", "truth")), [*overrides, *none_of(("train", "test"))]
    )
    assert math.isnan(evaluation.summaries["model"]["range/abs_rel"])
    assert evaluation.summaries["model"]["pose/translation_m/median"] > 0
    assert write_report(evaluation.result).exists()


def test_without_a_training_split_the_trivial_baselines_say_so(town, tmp_path):
    _, run, _, _ = town
    overrides = ["dataset.train.source.split=train"]  # not on disk
    with pytest.raises(
        ConfigError,
        match=r"fitted on the training split, which cannot be read: .*no such split.*baselines=\[gnss,",
    ):
        evaluate_run(run, tmp_path, options(), overrides)
    evaluation = evaluate_run(run, tmp_path, options(baselines=()), overrides)
    assert list(evaluation.summaries) == ["model"]


def none_of(splits):
    return [f"dataset.{split}.source.depth_source=none" for split in splits]


def test_options_are_checked_before_anything_is_done(toy_run, tmp_path):
    for changes, message in [
        ({"inputs": "depth"}, "inputs='depth'"),
        ({"baselines": ("trivial",)}, "trivial unknown"),
        ({"vehicles": 1}, "needs frames_json"),
        ({"alone": True}, "add points=true"),
        ({"frames_json": str(tmp_path / "absent.json")}, "no such contract"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate_run(toy_run, tmp_path / "out", options(**changes))
    assert not (tmp_path / "out").exists()
