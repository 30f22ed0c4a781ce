"""Building a panorama cache: stitched and compressed by many processes, written by one, resumable at any moment."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from coop3d.datasets.cache.format import (
    DEFAULT_COMPRESSION,
    CacheSettings,
    differences,
    encode,
    frames_hash,
    image_arrays,
    images_of,
    journal_path,
    level_of,
    shard_path,
)
from coop3d.datasets.cache.journal import Journal, Part, Place, Record, remove_journal
from coop3d.datasets.cache.reader import CacheFile
from coop3d.datasets.cache.writer import CacheWriter, rig_bytes
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex
from coop3d.datasets.opv2v.frame import FAR_PLANE_M
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.stitching import PanoramaStitcher, RigTable
from coop3d.types import Panorama, SampleKey

log = logging.getLogger(__name__)

_JOBS_PER_WORKER = 4  # in flight: enough that nobody waits, few enough that finished ones do not fill memory


@dataclass(frozen=True)
class BuildSummary:
    """What a build did."""

    path: Path
    frames: int  # in the file
    stitched: int  # by this run
    problems: dict[SampleKey, str] = field(default_factory=dict)  # frames that could not be used, and why


@dataclass(frozen=True)
class _Job:
    row: int
    entry: FrameEntry
    partners: tuple[FrameEntry, ...]


class CacheBuilder:
    """One cache file of a split, or of a shard of it.

    Frames whose pose cannot be read are left out, as they are when training from files; frames whose other files
    turn out to be unusable are in the file, marked with the reason.

    Args:
        output: ``X.h5``; a shard is written to ``X.shard-i-of-n.h5``.
        index: the split.
        recipe: how a panorama is made.
        shard: (i, n), i from 0: whole instants, dealt out in turn.
        compression: one of `COMPRESSIONS`, all lossless.
        provenance: recorded beside the settings, never compared.

    Raises:
        ValueError: an argument is impossible.
    """

    def __init__(
        self,
        output: Path,
        index: OPV2VIndex,
        recipe: PanoramaRecipe,
        *,
        shard: tuple[int, int] = (0, 1),
        compression: str = DEFAULT_COMPRESSION,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        i, n = shard
        if not 0 <= i < n:
            raise ValueError(f"shard is {i}/{n}, expected i/n with 0 <= i < n")
        level_of(compression)
        self.path = shard_path(Path(output), shard)
        self.recipe, self.compression = recipe, compression
        poses = index.T_world_rig
        instants = {(g.scenario, g.frame): k for k, g in enumerate(index.instants)}
        self.entries = [e for e in index.frames if instants[e.key.scenario, e.key.frame] % n == i]
        if not self.entries:
            raise DataError(
                f"{self.path}: shard {i}/{n} of {len(instants)} instants is empty; use fewer shards"
            )
        self.T_world_rig = np.stack([poses[e.key] for e in self.entries])
        self.index = index
        self.settings = CacheSettings(
            recipe,
            index.split,
            index.cameras if isinstance(index.cameras, str) else tuple(index.cameras),
            len(self.entries),
            frames_hash(e.key for e in self.entries),
            index.depth_root is not None,
            shard,
            compression,
        )
        self.config = {
            "settings": self.settings.described(),
            "far_plane_m": float(FAR_PLANE_M),
            "provenance": {
                "images_root": str(index.images_root),
                "depth_root": None if index.depth_root is None else str(index.depth_root),
                "skipped_frames": len(index.skipped),
                **(provenance or {}),
            },
        }

    def build(self, workers: int = 1, *, progress: bool = True) -> BuildSummary:
        """Build the file, finish one that was interrupted, or find that there is nothing to do.

        Args:
            workers: processes that stitch; 1 works in the calling process.
            progress: show a bar.

        Raises:
            DataError: the file, or an unfinished build of it, was made with other settings.
        """
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        journal: Journal | None = None
        if not self.path.exists():
            begun_with = {**self.settings.described(), "far_plane_m": float(FAR_PLANE_M)}
            journal = Journal(journal_path(self.path), begun_with)
        if self.path.exists():  # maybe another build finished it just now
            if journal is not None:
                journal.discard()
            return self._finished()
        assert journal is not None
        writer = CacheWriter(self.path, self.settings, [e.key for e in self.entries], self.T_world_rig)
        try:
            summary = self._fill(journal, writer, workers, progress)
            writer.finish(self.config)
        except BaseException:
            writer.abort()
            journal.close()
            raise
        journal.discard()
        return summary

    def _finished(self) -> BuildSummary:
        with CacheFile(self.path) as found:
            if changed := differences(found.settings.described(), self.settings.described()):
                raise DataError(
                    f"{self.path} is there already and was made with other settings ({'; '.join(changed)}). Choose "
                    "another --output, or delete it to build it anew."
                )
            log.info("%s is finished (%d frames): nothing to do", self.path, len(self.entries))
            remove_journal(journal_path(self.path))  # of a build that was killed between its last two steps
            return BuildSummary(self.path, len(self.entries), 0, found.problems)

    def _fill(self, journal: Journal, writer: CacheWriter, workers: int, progress: bool) -> BuildSummary:
        problems: dict[SampleKey, str] = {}
        missing = dict(enumerate(self.entries))
        with tqdm(
            total=len(self.entries), desc=self.path.name, unit="pano", disable=not progress, smoothing=0.05
        ) as bar:

            def take(record: Record) -> None:
                writer.write(record)
                entry = missing.pop(record.meta["row"])
                if "problem" in record.meta:
                    problems[entry.key] = record.meta["problem"]
                bar.update()

            for record in journal.replay():
                may_be_mended = "problem" in record.meta
                if record.meta["row"] in missing and not may_be_mended:
                    take(record)
            if done := bar.n:
                log.info("%s: %d of %d frames were done before", self.path, done, len(self.entries))
                bar.unpause()
            jobs = [_Job(row, e, self._partners(e)) for row, e in missing.items()]
            arguments = (self.recipe, level_of(self.compression), journal.path)
            with _mapped(jobs, arguments, workers) as results:
                for place in results:
                    take(journal.read(place))
                    if problems:
                        bar.set_postfix(unusable=len(problems))
        return BuildSummary(self.path, len(self.entries), len(jobs), problems)

    def _partners(self, entry: FrameEntry) -> tuple[FrameEntry, ...]:
        return self.index.partners_of(entry) if self.recipe.depth_source == "fused" else ()


@contextmanager
def _mapped(
    jobs: Sequence[_Job], arguments: tuple[PanoramaRecipe, int, Path], workers: int
) -> Iterator[Iterator[Place]]:
    """Where the records of all jobs lie, in the order they are finished."""
    if workers == 1 or len(jobs) < 2:
        worker = _Worker(*arguments)
        yield (worker.make(job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe once any library has started threads
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)
    try:
        yield _in_flight(pool, jobs, _JOBS_PER_WORKER * workers)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                "a stitching process was killed, usually because memory ran out. What is finished is kept: "
                "repeat the command, with fewer --workers"
            ) from error
        raise
    pool.shutdown()


def _in_flight(pool: ProcessPoolExecutor, jobs: Sequence[_Job], limit: int) -> Iterator[Place]:
    queue = iter(jobs)
    pending: set[Future[Place]] = {pool.submit(_make, job) for job in islice(queue, limit)}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            pending |= {pool.submit(_make, job) for job in islice(queue, 1)}
            yield future.result()


class _Worker:
    """Makes records and puts them into a part of the journal of its own.

    Look-up tables and the bytes of each rig are kept from frame to frame.
    """

    def __init__(self, recipe: PanoramaRecipe, level: int, journal: Path) -> None:
        self.recipe, self.level = recipe, level
        self.part = Part(journal)
        self.stitcher: PanoramaStitcher = recipe.stitcher()
        self._rigs: dict[int, tuple[RigTable, str, bytes]] = {}

    def make(self, job: _Job) -> Place:
        """Stitch one frame; only where its record lies travels to the writing process."""
        return self.part.append(self._record(job).pack())

    def _record(self, job: _Job) -> Record:
        try:
            frame = self.recipe.load_frame(job.entry, job.partners)
        except DataError as error:
            return Record({"row": job.row, "problem": str(error)}, {})
        try:
            panorama = self.stitcher(frame)
            digest, rig = self._rig(self.stitcher.table(frame), panorama)
        except Exception as error:
            raise RuntimeError(f"{job.entry.key}: {type(error).__name__}: {error}") from error
        parts = {
            name: encode(image, images_of(panorama.kind)[name], self.level)
            for name, image in image_arrays(panorama).items()
        }
        meta = {"row": job.row, "T_world_pano": panorama.T_world_pano.ravel().tolist(), "rig": digest}
        return Record(meta, {**parts, "rig": rig})

    def _rig(self, table: RigTable, panorama: Panorama) -> tuple[str, bytes]:
        if id(table) not in self._rigs:  # the table is kept below, so that its id is not reused
            if len(self._rigs) > 64:
                self._rigs.clear()
            data = rig_bytes(
                {
                    "source": table.source,
                    "origins": panorama.origins,
                    "T_pano_cam": np.stack(table.T_virtual_cam),
                    "intrinsics": np.stack([camera.matrix for camera in table.cameras]),
                }
            )
            digest = hashlib.sha256(data).hexdigest()
            self._rigs[id(table)] = (table, digest, data)
        return self._rigs[id(table)][1:]


_worker: _Worker | None = None


def _start(recipe: PanoramaRecipe, level: int, journal: Path) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = _Worker(recipe, level, journal)


def _die_with_parent() -> None:
    """A killed build must not leave processes waiting for work that never comes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _make(job: _Job) -> Place:
    assert _worker is not None
    return _worker.make(job)
