"""Standard synthetic data sets: definitions, what a folder must hold to be one, contracts on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.scripts import run_script

from coop3d.benchmark.samples import make_contract
from coop3d.benchmark.synthetic_sets.definition import SetError, SyntheticSet, load_set, set_names
from coop3d.benchmark.synthetic_sets.report import MACHINES
from coop3d.benchmark.synthetic_sets.scenarios import ScenarioHashes, read_hashes, scenarios_of, write_hashes
from coop3d.benchmark.synthetic_sets.verification import RECORD, depth_root_of, make_set, verify_set
from coop3d.conf import CONFIG_DIR, build, compose
from coop3d.datasets import VehicleSampling
from coop3d.datasets.opv2v import LAYOUT_MARK, LayoutIndex, OPV2VIndex
from coop3d.datasets.synthetic import SyntheticConfig
from coop3d.datasets.synthetic.content import planned_layout, sha256
from coop3d.evaluation.contracts import load_contract

ROOT = Path(__file__).parents[2]
TRAINING_TOWNS = {"coop3d-synth-v1-outskirts-small": 96}  # enough to fine-tune on
TINY = SyntheticSet(
    name="tiny",
    config=SyntheticConfig(
        seed=7, image_size=(32, 24), scenarios={"test": 1}, frames=1, vehicles=(2, 2), lidar_points=64,
        distances="opv2v",
    ),
)  # fmt: skip


def expected_layout(wanted):
    """Layout of a data set as its settings decide it: nothing is traced, a town takes a tenth of a second."""
    planned = [planned_layout(wanted.config, *which) for which in scenarios_of(wanted.config).values()]
    return dict(sorted((frame, line) for scenario in planned for frame, line in scenario.items()))


def made_and_published(wanted, root):
    """The data set made, its definition with what was found as published data have it, and the verdict."""
    verdict = make_set(wanted, root, workers=1, progress=False)
    fixed = replace(
        wanted, layout_sha256=verdict.layout_sha256, content_sha256=verdict.content_sha256, means=verdict.means,
        tolerance=1e-3,
    )  # fmt: skip
    return fixed, verdict


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "tiny"
    fixed, verdict = made_and_published(TINY, root)
    return fixed, root, verdict


TWO = replace(
    TINY, name="two", config=replace(TINY.config, scenarios={"validate": 1, "test": 2}, lidar_points=8)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three towns made at once, as published data are: every hash known."""
    root = tmp_path_factory.mktemp("sets") / "two"
    fixed, verdict = made_and_published(TWO, root)
    return replace(fixed, scenarios=verdict.scenarios), root, verdict


@pytest.fixture
def copy(made, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(made[1], root)
    shutil.copytree(depth_root_of(made[1]), depth_root_of(root))
    return root


@pytest.mark.parametrize("name", set_names())
def test_definitions_are_complete_and_what_training_makes(name):
    found = load_set(name)
    assert found.name == name
    assert found.config.distances == "opv2v"
    assert found.config.scenarios["train"] >= TRAINING_TOWNS.get(name, 300)
    assert len(found.layout_sha256) == 64
    demo = ["dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo"]
    cfg = compose("train", [f"machine={MACHINES[name]}", *demo])
    assert build(cfg, "machine.synthetic").settings() == found.config.settings()


def test_more_towns_for_training_are_added_to_the_small_ones():
    """So scores on the test towns compare."""
    small, more = load_set("coop3d-synth-v1-small"), load_set("coop3d-synth-v1-small-1200")
    assert len(more.scenarios) == len(small.scenarios) + 800
    assert {k: h.layout for k, h in more.scenarios.items() if k in small.scenarios} == {
        k: h.layout for k, h in small.scenarios.items()
    }


@pytest.mark.parametrize("name", set_names())
def test_contracts_score_vehicles_of_the_layout(name):
    """The first samples are where the settings put them, at the distance the contract says."""
    wanted = load_set(name)
    for contract in wanted.contracts:
        samples = load_contract(CONFIG_DIR / "contracts" / f"{contract}.json").samples
        layout = expected_layout(replace(wanted, config=replace(wanted.config, scenarios={"test": 3})))
        places = {
            "/".join(str(f).split("/")[1:]): np.array(line.split()[2:5], float) for f, line in layout.items()
        }
        scenarios = {key.split("/")[0] for key in places}
        checked = [s for s in samples if s.scenario in scenarios]
        assert checked
        for s in checked:
            at = [places[f"{s.scenario}/{agent}/{s.frame}"] for agent in s.agents]
            farthest = max(np.linalg.norm(p - at[0]) for p in at[1:])
            assert farthest == pytest.approx(s.distance_m, abs=0.02)
            assert farthest <= 60.0


def test_layout_on_disk_is_the_planned_one(made):
    """YAML read back against poses computed without building a town."""
    wanted, root, verdict = made
    assert verdict.vehicle_frames == 2
    assert sha256(expected_layout(TINY).values()) == verdict.layout_sha256
    again = verify_set(wanted, root)
    assert again.exact is True
    assert again.content_sha256 == verdict.content_sha256
    pictures = [cv2.imread(str(p)) for p in sorted(root.glob("test/*/*/*.png"))]
    assert len(pictures) == 8
    assert again.means["test"].level == pytest.approx(np.mean(pictures))


def test_a_changed_photograph_is_named(made, copy):
    path = sorted(copy.glob("test/*/501/*_camera2.png"))[0]
    picture = cv2.imread(str(path))
    picture[3, 4, 1] ^= 1
    cv2.imwrite(str(path), picture)
    with pytest.raises(SetError, match=r"1 of 2 vehicle-frames changed .*/501/"):
        verify_set(made[0], copy)
    (copy / RECORD).unlink()
    assert (
        verify_set(made[0], copy).exact is False
    )  # one level of one pixel: rounding, for all anybody can tell
    cv2.imwrite(str(path), 255 - picture)
    with pytest.raises(SetError, match="test: level is"):
        verify_set(made[0], copy)


def test_another_compression_is_the_same_content(made, copy):
    path = sorted(copy.glob("test/*/*/*.png"))[0]
    before = path.read_bytes()
    cv2.imwrite(str(path), cv2.imread(str(path)), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert path.read_bytes() != before
    assert verify_set(made[0], copy).exact is True


def test_a_changed_pose_or_depth_is_named(made, copy):
    path = sorted(copy.glob("test/*/500/*.yaml"))[0]
    text = path.read_text()
    record = yaml.safe_load(text)
    x = record["lidar_pose"][0]
    path.write_text(text.replace(repr(x), repr(x + 1e-9)))
    with pytest.raises(SetError, match="changed since"):  # the layout does not see it, the record does
        verify_set(made[0], copy)
    path.write_text(text.replace(repr(x), repr(x + 0.001)))
    with pytest.raises(SetError, match=r"500/.*has the poses"):
        verify_set(made[0], copy)
    path.write_text(text)
    depth = sorted(depth_root_of(copy).glob("test/*/*/*.npy"))[0]
    np.save(depth, np.load(depth) * 1.01)
    with pytest.raises(SetError, match="changed since"):
        verify_set(made[0], copy)
    depth.unlink()
    with pytest.raises(ValueError, match="is missing"):
        verify_set(made[0], copy)


def test_frames_too_few_or_too_many_are_named(made, copy):
    path = sorted(copy.glob("test/*/500/*.yaml"))[0]
    moved = path.with_name("999999.yaml")
    path.rename(moved)
    with pytest.raises(SetError, match=f"{path.stem}.yaml is missing"):
        verify_set(made[0], copy)
    shutil.copy(moved, path)
    with pytest.raises(SetError, match=r"999999\.yaml does not belong here"):
        verify_set(made[0], copy)


def test_other_data_and_other_generators_are_refused(made, copy):
    other = replace(TINY, config=replace(TINY.config, seed=8))
    with pytest.raises(SetError, match="seed is 7, tiny has 8: the folder holds other data"):
        verify_set(other, copy)
    with pytest.raises(ValueError, match="seed: found 7, now 8"):
        make_set(other, copy, workers=1, progress=False)
    with pytest.raises(SetError, match="generator makes another layout"):
        verify_set(replace(made[0], layout_sha256="0" * 64), copy)
    with pytest.raises(SetError, match="was not made there"):
        verify_set(made[0], copy / "elsewhere")


def test_a_slice_is_the_beginning_of_the_whole():
    whole = SyntheticSet(
        name="two", config=replace(TINY.config, scenarios={"train": 2, "test": 1}), layout_sha256="0" * 64
    )
    part = whole.slice(1)
    assert part.name == "two.first1"
    assert part.config.scenarios == {"train": 1, "test": 1}
    assert part.layout_sha256 is None
    assert expected_layout(part).items() < expected_layout(whole).items()
    assert whole.slice(2) is whole
    with pytest.raises(SetError, match="expected at least 1"):
        whole.slice(0)


def test_definitions_with_other_keys_are_refused(tmp_path, monkeypatch):
    for folder in ("benchmark", "synthetic"):
        shutil.copytree(CONFIG_DIR / folder, tmp_path / folder)
    monkeypatch.setattr("coop3d.benchmark.synthetic_sets.definition.CONFIG_DIR", tmp_path)
    name = set_names()[0]
    with (tmp_path / "benchmark" / f"{name}.yaml").open("a") as file:
        file.write("sha: 1\n")
    with pytest.raises(SetError, match="keys are"):
        load_set(name)
    with pytest.raises(SetError, match="is no data set; there are"):
        load_set("coop3d-synth-v0")


def test_a_layout_completed_in_parts_is_the_set_made_at_once(whole, tmp_path):
    fixed, root, verdict = whole
    folder = tmp_path / "two"
    layout = make_set(fixed, folder, layout_only=True, workers=1, progress=False)
    assert layout.layout_sha256 == verdict.layout_sha256
    assert layout.other_yaml == ()
    assert layout.content_sha256 is None
    assert layout.exact is None
    assert {k: h[:2] for k, h in layout.scenarios.items()} == {k: h[:2] for k, h in verdict.scenarios.items()}
    assert not (folder / RECORD).exists()
    with pytest.raises(SetError, match="validate: holds the layout, as it should be, and not all"):
        verify_set(fixed, folder)

    part = make_set(fixed, folder, only=["test"], workers=1, progress=False)
    assert part.exact is True
    assert set(part.means) == {"test"}
    assert part.vehicle_frames == 4
    assert verify_set(fixed, folder, only=["test"]).content_sha256 == part.content_sha256
    make_set(fixed, folder, only=["validate"], workers=1, progress=False)
    assert verify_set(fixed, folder) == replace(verdict, exact=True)
    assert json.loads((folder / RECORD).read_text()) == json.loads((root / RECORD).read_text())
    assert not list(folder.rglob(LAYOUT_MARK))


def test_contracts_of_a_layout_are_those_of_the_data(whole, tmp_path):
    fixed, root, _ = whole
    make_set(fixed, tmp_path / "two", only=["test"], layout_only=True, workers=1, progress=False)
    sampling = VehicleSampling(vehicles=2, pair_policy="nearest", max_distance_m=None)
    drawn = [
        make_contract(index, "a", sampling)
        for index in (LayoutIndex(tmp_path / "two", "test"), OPV2VIndex(root, "test"))
    ]
    assert drawn[0].digest == drawn[1].digest
    assert len(drawn[0].samples) == 2


def test_a_part_is_verified_by_itself(whole, tmp_path):
    fixed, root, verdict = whole
    folder = tmp_path / "two"
    shutil.copytree(root, folder)
    shutil.copytree(depth_root_of(root), depth_root_of(folder))
    one, other = (key for key in verdict.scenarios if key.startswith("test/"))
    picture = sorted((folder / other).glob("*/*_camera0.png"))[0]
    cv2.imwrite(str(picture), 255 - cv2.imread(str(picture)))
    found = verify_set(fixed, folder, only=[one])
    assert found.exact is True
    assert found.scenarios == {one: verdict.scenarios[one]}
    with pytest.raises(SetError, match="1 of 2 vehicle-frames changed"):
        verify_set(fixed, folder, only=[other])
    (folder / RECORD).unlink()
    found = verify_set(fixed, folder, only=[other])  # no mean is known of one scenario
    assert (found.exact, found.agreeing) == (False, ())
    with pytest.raises(SetError, match="test: level is"):
        verify_set(fixed, folder, only=["test"])
    assert verify_set(fixed, folder, only=["test"], layout_only=True).other_yaml == ()
    for wrong in ("train", "test/2021_08_25_00_00_00", "tes"):
        with pytest.raises(
            ValueError, match=f"{wrong!r} is no part of the data set: expected validate, test"
        ):
            verify_set(fixed, folder, only=[wrong])


def test_yaml_that_keeps_the_layout_is_still_another(whole, tmp_path):
    fixed, root, verdict = whole
    folder = tmp_path / "two"
    shutil.copytree(root, folder)
    key = next(iter(verdict.scenarios))
    path = sorted((folder / key).glob("*/*.yaml"))[0]
    path.write_text(path.read_text().replace("ego_speed: ", "ego_speed: 1"))
    assert verify_set(fixed, folder, layout_only=True).other_yaml == (key,)
    path.unlink()
    with pytest.raises(SetError, match=f"{path.stem}.yaml is missing"):
        verify_set(fixed, folder, only=[key], layout_only=True)


def test_a_slice_keeps_what_is_known_of_its_scenarios(whole):
    fixed, _, verdict = whole
    part = fixed.slice(1)
    assert len(part.scenarios) == 2
    assert part.scenarios.items() < verdict.scenarios.items()
    wrong = {key: h._replace(layout="0" * 16) for key, h in verdict.scenarios.items()}
    with pytest.raises(SetError, match=r"another layout than the definition's"):
        verify_set(replace(fixed, scenarios=wrong), whole[1], only=["test"], layout_only=True)


def test_hashes_are_written_beside_others_and_read_back(tmp_path):
    path = tmp_path / "x.scenarios.txt"
    a, b = ScenarioHashes("a" * 16, "b" * 16, "c" * 16), ScenarioHashes("d" * 16, "e" * 16, None)
    assert read_hashes(path) == {}
    write_hashes(path, {"test/2": a, "test/1": b})
    write_hashes(path, {"test/2": a._replace(content=None), "test/3": b})
    assert read_hashes(path) == {"test/1": b, "test/2": a, "test/3": b}
    write_hashes(path, {"test/2": a._replace(yaml="0" * 16, content=None)})
    assert read_hashes(path)["test/2"] == ScenarioHashes("a" * 16, "0" * 16, None)
    path.write_text(path.read_text() + "test/4 abc - -\n")
    with pytest.raises(ValueError, match=r"line 6: is 'test/4 abc - -', expected split/scenario and three"):
        read_hashes(path)


@pytest.mark.parametrize("name", ["coop3d-synth-v1", "coop3d-synth-v1-small"])
def test_published_hashes_are_of_all_scenarios_and_of_the_settings(name):
    wanted = load_set(name)
    chosen = scenarios_of(wanted.config)
    assert wanted.scenarios.keys() == chosen.keys()
    for key in [*chosen][:: len(chosen) // 3]:
        layout = planned_layout(wanted.config, *chosen[key])
        assert sha256(layout.values()).startswith(wanted.scenarios[key].layout)
    if wanted.content_sha256 is not None:
        assert None not in {h.content for h in wanted.scenarios.values()}


def test_the_script_verifies_and_refuses(made):
    command = ("make_synth_benchmark.py", "coop3d-synth-v1-small", "--output", made[1])
    wrong = run_script(*command, "--verify", "--quiet", status=1)
    assert "the folder holds other data" in wrong.stderr
    assert json.loads((made[1] / RECORD).read_text())["frames"]
    unknown = run_script(*command, "--only", "demo", "--layout-only", status=1)
    assert "'demo' is no part of the data set" in unknown.stderr
