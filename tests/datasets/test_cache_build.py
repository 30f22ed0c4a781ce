"""Building a panorama cache: killed at any moment, in parallel, twice, with other settings, by the script."""

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.cache_files import contents, die, kill_while
from support.opv2v_files import write_dataset
from support.processes import CLEAN
from support.scripts import SCRIPTS, run_script

from coop3d.benchmark.study.runner import locked
from coop3d.datasets import DataError
from coop3d.datasets.cache import CacheBuilder, CachedPanoramas
from coop3d.datasets.cache import journal as journal_module
from coop3d.datasets.cache import writer as writer_module
from coop3d.datasets.cache.journal import Journal, Part, Record
from coop3d.datasets.cache.writer import CacheWriter
from coop3d.datasets.opv2v import OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.geometry import EquirectangularCamera

SCRIPT = "build_panorama_cache.py"
RECIPE = PanoramaRecipe(EquirectangularCamera(112, 28))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenarios of two vehicles; one photograph is broken."""
    root = tmp_path_factory.mktemp("opv2v")
    images, depth = write_dataset(root, scenarios=2, frames=3)
    sorted(images.rglob("000070_camera1.png"))[0].write_bytes(b"junk")
    return images, depth


def builder(data, output, **options):
    return CacheBuilder(output, OPV2VIndex(data[0], "train", data[1]), RECIPE, **options)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "train.h5"
    builder(data, path).build(progress=False)
    return contents(path)


def stop_in_append(count, share):
    """SIGKILL when ``count`` records have been written and ``share`` of the next one."""

    def install():
        whole, seen = Part.append, 0

        def append(self, packed):
            nonlocal seen
            if seen == count:
                whole(self, packed[: int(share * len(packed))])
                die()
            seen += 1
            return whole(self, packed)

        Part.append = append

    return install


def stop_before(module, name):
    def install():
        setattr(module, name, lambda *_: die())

    return install


def stop_before_rename(module):
    def install():
        module.os = SimpleNamespace(**{**vars(os), "replace": lambda *_: die()})

    return install


MOMENTS = {
    "settings not written": stop_before_rename(journal_module),
    "settings written": stop_in_append(0, 0.0),
    "in the head of a record": stop_in_append(2, 0.0001),
    "in the middle of a record": stop_in_append(3, 0.5),
    "a byte short": stop_in_append(5, 0.9999),
    "all stitched": stop_before(writer_module.CacheWriter, "finish"),
    "file not closed": stop_before(writer_module.h5py.File, "close"),
    "file not renamed": stop_before_rename(writer_module),
    "journal not removed": stop_before(Journal, "discard"),
    "after everything": stop_in_append(12, 0.0),  # there is no 13th record
}
# The broken frame, one of the first three, is tried again each time.
LOST = {"in the middle of a record": 9 + 1, "a byte short": 7 + 1, "all stitched": 1, "file not closed": 1,
        "file not renamed": 1, "journal not removed": 0, "after everything": 0}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_undisturbed(data, undisturbed, tmp_path, moment):
    path = tmp_path / "train.h5"

    def build():
        MOMENTS[moment]()
        builder(data, path).build(progress=False)
        die()

    kill_while(build)
    if path.exists():
        assert moment in ("journal not removed", "after everything")
        assert contents(path) == undisturbed
    summary = builder(data, path).build(progress=False)
    assert contents(path) == undisturbed
    assert sorted(os.listdir(tmp_path)) == ["train.h5"]
    assert summary.stitched == LOST.get(moment, summary.stitched)
    assert len(summary.problems) == 1


def test_a_file_mended_before_the_build_goes_on_is_used(tmp_path):
    images, depth = write_dataset(tmp_path, frames=2)
    photograph = sorted(images.rglob("*_camera1.png"))[0]
    whole = photograph.read_bytes()
    photograph.write_bytes(whole[:100])
    path = tmp_path / "train.h5"

    def build():
        stop_in_append(3, 0.5)()
        builder((images, depth), path).build(progress=False)

    kill_while(build)
    photograph.write_bytes(whole)
    assert builder((images, depth), path).build(progress=False).problems == {}
    builder((images, depth), tmp_path / "again.h5").build(progress=False)
    assert contents(path) == contents(tmp_path / "again.h5")


def test_killed_again_and_again(data, undisturbed, tmp_path):
    path = tmp_path / "train.h5"

    def build():
        stop_in_append(2, 0.7)()  # two more frames each time
        builder(data, path).build(progress=False)

    rounds = 0
    while not path.exists() and rounds < 10:
        if rounds < 5:
            kill_while(build)
        else:
            builder(data, path).build(progress=False)
        rounds += 1
    assert contents(path) == undisturbed


def test_workers_change_nothing(data, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: CLEAN)  # spawned ones: the script's, below
    path = tmp_path / "train.h5"
    assert builder(data, path).build(workers=2, progress=False).stitched == 12
    assert contents(path) == undisturbed


def test_a_finished_file_is_left_alone(data, undisturbed, tmp_path, caplog):
    path = tmp_path / "train.h5"
    builder(data, path).build(progress=False)
    before = path.stat().st_mtime_ns
    caplog.set_level("INFO")
    summary = builder(data, path).build(progress=False)
    assert (summary.stitched, len(summary.problems), path.stat().st_mtime_ns) == (0, 1, before)
    assert "nothing to do" in caplog.text
    with pytest.raises(
        DataError, match=r"other settings \(compression: found 'gzip-2', wanted 'none'\).*--output"
    ):
        builder(data, path, compression="none").build(progress=False)
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        builder(data, path).build(progress=False)
    assert path.read_bytes() == b"something else"


def test_an_unfinished_build_with_other_settings_or_of_somebody_else_is_refused(data, tmp_path):
    path = tmp_path / "train.h5"

    def build():
        stop_in_append(4, 0.5)()
        builder(data, path).build(progress=False)

    kill_while(build)
    with pytest.raises(
        DataError, match=r"begun with other settings \(compression: found 'gzip-2', wanted 'gzip-9'"
    ):
        builder(data, path, compression="gzip-9").build(progress=False)
    with pytest.raises(DataError, match="build is unfinished"):
        CachedPanoramas(path)
    journal = tmp_path / "train.h5.journal"
    held = Journal(journal, json.loads((journal / "settings.json").read_text()))
    with pytest.raises(DataError, match="another build of the same file is running"):
        builder(data, path).build(progress=False)
    held.close()
    diary = tmp_path / "other.h5.journal" / "diary.txt"
    diary.parent.mkdir()
    diary.write_text("dear diary")
    with pytest.raises(DataError, match="not the journal of a build"):
        builder(data, tmp_path / "other.h5").build(progress=False)
    assert diary.read_text() == "dear diary"


def test_every_frame_is_in_exactly_one_shard_and_instants_stay_together(data, tmp_path):
    shards = [builder(data, tmp_path / "x.h5", shard=(i, 4)) for i in range(4)]
    keys = [[e.key for e in shard.entries] for shard in shards]
    assert sorted(k for part in keys for k in part) == sorted(
        e.key for e in OPV2VIndex(*data[:1], "train", data[1]).frames
    )
    ticks = [{(k.scenario, k.frame) for k in part} for part in keys]
    assert sum(map(len, ticks)) == len(set().union(*ticks)) == 6
    with pytest.raises(ValueError, match="expected i/n"):
        builder(data, tmp_path / "x.h5", shard=(4, 4))
    with pytest.raises(DataError, match="is empty; use fewer shards"):
        builder(data, tmp_path / "x.h5", shard=(6, 7))


def test_record_survives_the_journal(tmp_path):
    record = Record({"row": 3, "T_world_pano": [0.1, 1e-300, -1 / 3]}, {"a": b"\0\1", "b": b""})
    journal = Journal(tmp_path / "j", {"x": 1})
    assert list(journal.replay()) == []
    place = Part(tmp_path / "j").append(record.pack())
    assert journal.read(place) == record
    journal.close()
    assert list(Journal(tmp_path / "j", {"x": 1}).replay()) == [record]


def arguments(data, output, workers=1):
    return [
        "--images-root", str(data[0]), "--depth-root", str(data[1]), "--split", "train", "--output", str(output),
        "--width", "112", "--workers", str(workers),
    ]  # fmt: skip


def children_of(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_script_killed_with_workers_leaves_no_process_and_resumes(data, undisturbed, tmp_path, caplog):
    path, journal = tmp_path / "train.h5", tmp_path / "train.h5.journal"
    command = [sys.executable, str(SCRIPTS / SCRIPT), *arguments(data, path, workers=2)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 250  # seconds on an idle machine
        while sum(p.stat().st_size for p in journal.glob("*.part")) < 10_000 and time.monotonic() < deadline:
            assert process.poll() is None, "the script ended by itself"
            time.sleep(0.002)
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert len(workers) >= 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    caplog.set_level(logging.INFO)
    run_script(SCRIPT, *arguments(data, path), "--verify", status=3)  # one photograph is broken
    assert "of 12 frames were done before" in caplog.text
    assert "000070_camera1.png" in caplog.text
    assert "verified: 0 of 12 panoramas differ" in caplog.text
    found, expected = contents(path), dict(undisturbed)
    assert found.pop("@config") != expected.pop("@config")  # the script records the git revision
    assert found == expected


def test_script_builds_several_splits_into_a_folder(data, tmp_path):
    """Each file is the one that it would be alone; of a misspelt split nothing is made; the worst status remains."""
    shutil.copytree(data[0] / "train", tmp_path / "images" / "validate")
    (tmp_path / "images" / "train").symlink_to(data[0] / "train")
    for photograph in (tmp_path / "images" / "validate").rglob("000070_camera1.png"):
        shutil.copy(photograph.with_name("000068_camera1.png"), photograph)  # whole, unlike that of train
    common = ["--images-root", tmp_path / "images", "--width", 112, "--workers", 1, "--output"]
    refused = run_script(SCRIPT, *common, tmp_path / "x", "--split", "train", "tset", status=1)
    assert "tset" in refused.stderr
    assert not (tmp_path / "x").exists()
    refused = run_script(SCRIPT, *common, tmp_path / "x.h5", "--split", "train", "validate", status=2)
    assert "x.h5 is one file, but there are 2 splits; name a folder" in refused.stderr
    run_script(SCRIPT, *common, tmp_path / "x", "--split", "train", "validate", status=3)
    assert sorted(os.listdir(tmp_path / "x")) == ["train.h5", "validate.h5"]
    assert len(CachedPanoramas(tmp_path / "x" / "train.h5").files[0].problems) == 1
    assert CachedPanoramas(tmp_path / "x" / "validate.h5").files[0].problems == {}
    run_script(SCRIPT, *common, tmp_path / "x", "--split", "validate")


def test_script_takes_its_shard_from_torchrun(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    run_script(
        SCRIPT, *arguments(data, tmp_path / "t.h5"), status=3
    )  # it is the share with the broken photograph
    assert os.listdir(tmp_path) == ["t.shard-1-of-6.h5"]


def test_a_broken_frame_of_one_shard_does_not_end_the_others(data, tmp_path, monkeypatch, caplog):
    """torchrun ends all processes when one has a status."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    caplog.set_level(logging.INFO)
    run_script(SCRIPT, *arguments(data, tmp_path / "t.h5"))
    assert "000070_camera1.png" in caplog.text
    assert "1 frames could not be used" in caplog.text


def test_a_full_disk_is_one_line_and_the_build_goes_on(data, tmp_path, monkeypatch, caplog):
    def write(self, record, write=CacheWriter.write):
        if record.meta["row"] == 3:
            raise OSError(errno.ENOSPC, "Can't write unprocessed chunk data (long)")  # as h5py says it
        write(self, record)

    caplog.set_level(logging.INFO)
    path = tmp_path / "t.h5"
    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "write", write)
        said = run_script(SCRIPT, *arguments(data, path), "--workers", "1", status=1).stderr
    assert f"cannot write {path} (No space left on device)" in said
    assert "repeat the command, which keeps what is finished" in said
    run_script(SCRIPT, *arguments(data, path), "--workers", "1", status=3)  # one photograph is broken
    assert "of 12 frames were done before" in caplog.text


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("coop3d.files.fcntl.flock", without)
    Journal(tmp_path / "j", {"x": 1}).close()
    with locked(tmp_path / "study" / ".lock") as descriptor:  # of a study
        assert descriptor >= 0
    assert caplog.text.count("this file system has no locks") == 2
    assert "this file system has no locks" in caplog.text
