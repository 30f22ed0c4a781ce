"""Reading panorama caches: one file checked and opened lazily, and any number of shards as one view source."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.cache.format import (
    NAMES,
    NO_RIG,
    CacheSettings,
    decode,
    differences,
    images_of,
    journal_path,
    level_of,
    masks,
    shard_path,
)
from coop3d.datasets.cache.writer import RIG_ARRAYS
from coop3d.datasets.entries import Instant, group_instants
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import Skipped
from coop3d.datasets.opv2v.frame import FAR_PLANE_M
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.types import Panorama, SampleKey

_REBUILD = "Build it again with scripts/build_panorama_cache.py."
SKY_ROWS = 4  # looked at when a file is opened


class CacheFile:
    """One file: everything small in memory, panoramas read when asked for.

    Every process that reads opens the file for itself, at its first read; an instance can be pickled.

    Args:
        path: ``.h5`` file.

    Raises:
        DataError: missing, damaged, unfinished, of another format or version, or inconsistent.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle: tuple[int, h5py.File] | None = None
        with self._opened() as file:
            attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
            self.settings = CacheSettings.from_file(self.path, attributes)
            self.config: str = attributes["config"]
            self._check_images(file)
            n = self.settings.frames
            self.T_world_pano: NDArray[np.float64] = self._small(file, "T_world_pano", (n, 4, 4), np.float64)
            self.T_world_rig = self.T_world_pano
            if "T_world_rig" in file:
                self.T_world_rig = self._small(file, "T_world_rig", (n, 4, 4), np.float64)
            names = [self._texts(file, name, n) for name in NAMES]
            self.keys = [SampleKey(*parts) for parts in zip(*names, strict=True)]
            self._problem = self._texts(file, "problem", n) if "problem" in file else [""] * n
            self._rig_of = self._small(file, "rig", (n,), np.uint16)
            self._rigs = self._read_rigs(file)
            self._check_complete(self._small(file, "complete", (n,), np.uint8))
        self._level = level_of(self.settings.compression)
        self._check_sky()

    @property
    def problems(self) -> dict[SampleKey, str]:
        """Frames without a panorama, and why."""
        return {key: problem for key, problem in zip(self.keys, self._problem, strict=True) if problem}

    def read(self, row: int) -> Panorama:
        """The panorama of a row.

        Raises:
            DataError: the frame could not be used when the file was built, or the file is damaged.
        """
        if self._problem[row]:
            raise DataError(f"{self._problem[row]} (found when {self.path} was built)")
        recipe = self.settings.recipe
        rig = self._rigs[int(self._rig_of[row])]
        images = {name: self._image(name, row) for name in images_of(recipe.kind)}
        return Panorama(
            key=self.keys[row],
            camera=recipe.camera,
            kind=self.settings.panorama_kind,
            rgb=images["rgb"],
            range_m=images["range_m"],
            source=images.get("source", rig["source"]),
            origins=rig["origins"],
            T_world_pano=self.T_world_pano[row].copy(),
            **masks(images["flags"]),
        )

    def rig(self, row: int) -> dict[str, NDArray]:
        """``source``, ``origins``, ``T_pano_cam`` and ``intrinsics`` of the rig that made a row."""
        return self._rigs[int(self._rig_of[row])]

    def close(self) -> None:
        """Close this process's handle; reading opens it again."""
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None

    def __enter__(self) -> CacheFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _opened(self) -> h5py.File:
        try:
            # finished files never change: no lock is needed (some network file systems have none), and a chunk is
            # a whole panorama, so keeping chunks would only cost memory
            return h5py.File(self.path, "r", locking=False, rdcc_nbytes=0)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file. {_how_to_get(self.path)}") from error
        except OSError as error:
            raise DataError(
                f"{self.path}: not a readable HDF5 file ({error}); it was cut short or is something else. Copy it "
                f"again, or delete it. {_REBUILD}"
            ) from error

    def _check_sky(self) -> None:
        """Refuse a file of earlier code that took the far plane of CARLA's depth camera for a surface; a few rows."""
        knows_sky = "far_plane_m" in json.loads(self.config)
        if knows_sky or self.settings.recipe.depth_source not in ("auto", "dense"):
            return
        farthest = 0.0
        for row in np.linspace(0, len(self.keys) - 1, SKY_ROWS).astype(int):
            with suppress(DataError):  # a damaged row is reported when it is read
                farthest = max(farthest, float(np.nanmax(self._image("range_m", row), initial=0.0)))
        self.close()
        if farthest >= FAR_PLANE_M:
            raise DataError(f"{self.path}: holds the sky, 1000 m away, as a surface. {_REBUILD}")

    def _file(self) -> h5py.File:
        if self._handle is None or self._handle[0] != os.getpid():  # a forked process must not share a handle
            self._handle = (os.getpid(), self._opened())
        return self._handle[1]

    def _image(self, name: str, row: int) -> NDArray:
        camera, spec = self.settings.recipe.camera, images_of(self.settings.recipe.kind)[name]
        dataset = self._file()[name]
        try:
            offset = (row, *(0 for _ in dataset.shape[1:]))
            _, chunk = dataset.id.read_direct_chunk(offset)
            return decode(chunk, spec, spec.shape(camera.height, camera.width), self._level)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{self.path}: dataset '{name}', row {row} ({self.keys[row]}) cannot be read ({error}); the file is "
                f"damaged. Copy it again, or delete it. {_REBUILD}"
            ) from error

    def _check_images(self, file: h5py.File) -> None:
        recipe = self.settings.recipe
        level = level_of(self.settings.compression)
        for name, spec in images_of(recipe.kind).items():
            shape = spec.shape(recipe.camera.height, recipe.camera.width)
            dataset = self._dataset(file, name, (self.settings.frames, *shape), spec.dtype)
            found = (dataset.chunks, dataset.compression, dataset.shuffle)
            wanted = ((1, *shape), "gzip" if level else None, bool(level) and spec.shuffled)
            if found != wanted:
                raise DataError(
                    f"{self.path}: dataset '{name}' has (chunks, compression, shuffle) {found}, expected {wanted}. "
                    f"{_REBUILD}"
                )

    def _dataset(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
        if name not in file:
            raise DataError(f"{self.path}: dataset '{name}' is missing, found {sorted(file)}. {_REBUILD}")
        dataset = file[name]
        if dataset.shape != shape or (dtype is not None and dataset.dtype != dtype):
            raise DataError(
                f"{self.path}: dataset '{name}' is {dataset.dtype} of shape {dataset.shape}, expected "
                f"{'text' if dtype is None else np.dtype(dtype)} of shape {shape}. {_REBUILD}"
            )
        return dataset

    def _small(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray:
        return self._dataset(file, name, shape, dtype)[()]

    def _texts(self, file: h5py.File, name: str, count: int) -> list[str]:
        return self._dataset(file, name, (count,), None).asstr()[()].tolist()

    def _read_rigs(self, file: h5py.File) -> dict[int, dict[str, NDArray]]:
        camera = self.settings.recipe.camera
        rigs = {}
        for number in np.unique(self._rig_of[self._rig_of != NO_RIG]).tolist():
            count = file[f"rigs/{number}/origins"].shape[0] if f"rigs/{number}/origins" in file else 0
            shapes = ((camera.height, camera.width), (count, 3), (count, 4, 4), (count, 3, 3))
            rigs[number] = {
                name: self._small(file, f"rigs/{number}/{name}", shape, dtype)
                for (name, dtype), shape in zip(RIG_ARRAYS.items(), shapes, strict=True)
            }
        return rigs

    def _check_complete(self, complete: NDArray[np.uint8]) -> None:
        open_rows = [i for i, done in enumerate(complete) if not done and not self._problem[i]]
        if open_rows:
            raise DataError(
                f"{self.path}: {len(open_rows)} of {len(complete)} panoramas are not complete, first "
                f"{self.keys[open_rows[0]]}: the file is unfinished. {_REBUILD}"
            )


def _how_to_get(path: Path) -> str:
    if journal_path(path).exists():
        return f"Its build is unfinished ({journal_path(path).name}): repeat the command that began it."
    return (
        "Build it with scripts/build_panorama_cache.py, or set machine.panorama_cache_root to where it lies."
    )


@dataclass(frozen=True)
class CachedEntry:
    """One vehicle at one instant, and where its panorama is."""

    key: SampleKey
    file: int
    row: int


@dataclass
class CacheIndex:
    """Which vehicles are there and where they stood; the counterpart of `OPV2VIndex`, in the same order.

    Frames whose panorama could not be made stay in the index, so that samples are drawn as from the files;
    loading one raises `DataError`, as it does there.
    """

    split: str
    frames: list[CachedEntry]
    T_world_rig: dict[SampleKey, NDArray[np.float64]]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def instants(self) -> list[Instant[CachedEntry]]:
        """Frames grouped by (scenario, tick)."""
        return group_instants(self.frames)


class CachedPanoramas:
    """One panorama per vehicle, read from cache files; no other file is needed.

    Args:
        files: a file, a list of files, or a pattern; ``X.h5`` also stands for all its shards
            ``X.shard-i-of-n.h5``.
        recipe: what the panoramas must have been made with; None: whatever the files hold.
        split, cameras: what they must be of; None: whatever the files hold.

    Raises:
        DataError: a file is missing, unusable, of other settings, or shards are missing.
    """

    views_per_vehicle = 1

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        recipe: PanoramaRecipe | None = None,
        split: str | None = None,
        cameras: str | Sequence[str] | None = None,
    ) -> None:
        self.files = [CacheFile(path) for path in find_files(files)]
        first = self.files[0].settings
        self.recipe = first.recipe
        self._check_settings(recipe, split, cameras)
        self._check_shards()
        self.index = self._make_index(first.split)

    @property
    def location(self) -> str:
        """The first file."""
        more = len(self.files) - 1
        return str(self.files[0].path) + (f" and {more} more" if more else "")

    def load(self, entry: CachedEntry) -> tuple[Panorama, ...]:
        """The vehicle's panorama; raises `DataError` where there is none."""
        return (self.files[entry.file].read(entry.row),)

    def close(self) -> None:
        """Close this process's handles; reading opens them again."""
        for file in self.files:
            file.close()

    def _check_settings(
        self, recipe: PanoramaRecipe | None, split: str | None, cameras: str | Sequence[str] | None
    ) -> None:
        wanted = self.files[0].settings
        if recipe is not None:
            wanted = replace(wanted, recipe=recipe)
        if split is not None:
            wanted = replace(wanted, split=split)
        if cameras is not None:
            wanted = replace(wanted, cameras=cameras if isinstance(cameras, str) else tuple(cameras))
        for file in self.files:
            if changed := differences(_what(file.settings), _what(wanted)):
                raise DataError(
                    f"{file.path} holds other panoramas than asked for ({'; '.join(changed)}). Change the dataset "
                    "config to what the file holds, or build another cache with scripts/build_panorama_cache.py."
                )

    def _check_shards(self) -> None:
        counts = sorted({file.settings.shard[1] for file in self.files})
        there = sorted(file.settings.shard[0] for file in self.files)
        if len(counts) > 1 or there != list(range(counts[0])):
            names = ", ".join(
                f"{f.path.name} ({f.settings.shard[0]} of {f.settings.shard[1]})" for f in self.files
            )
            raise DataError(
                f"{self.files[0].path.parent}: found the shards {names}; expected every shard i of one n exactly "
                "once, i from 0. Build the missing ones, or name the files of one set."
            )

    def _make_index(self, split: str) -> CacheIndex:
        poses: dict[SampleKey, NDArray[np.float64]] = {}
        entries = []
        for number, file in enumerate(self.files):
            for row, key in enumerate(file.keys):
                if key in poses:
                    raise DataError(f"{file.path}: {key} is in another of the files too; name each file once")
                poses[key] = file.T_world_rig[row]
                entries.append(CachedEntry(key, number, row))
        entries.sort(key=lambda e: (e.key.scenario, int(e.key.agent), e.key.frame))  # as OPV2VIndex
        skipped = [Skipped(key, reason) for file in self.files for key, reason in file.problems.items()]
        return CacheIndex(split, entries, poses, skipped)


def _what(settings: CacheSettings) -> dict[str, Any]:
    """The part of a file's description that a reader cares for."""
    private = {"frames", "frames_sha256", "depth_files", "shard", "compression"}
    return {name: value for name, value in settings.described().items() if name not in private}


def find_files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """Paths that a file name, a list or a pattern stands for.

    Raises:
        DataError: nothing is there.
    """
    if not isinstance(files, (str, Path)):
        found = [path for item in files for path in find_files(item)]
        if not found:
            raise DataError("an empty list of panorama cache files; name at least one")
        return found
    path = Path(files)
    if path.exists():
        return [path]
    pattern = str(path)
    if not glob.has_magic(pattern):  # one file, or all shards of it
        escaped = path.with_name(f"{glob.escape(path.stem)}.shard-*-of-*{path.suffix}")
        pattern = str(Path(glob.escape(str(path.parent))) / escaped.name)
    if shards := sorted(Path(p) for p in glob.glob(pattern)):
        return shards
    raise DataError(
        f"{path}: no such file, and no shards {shard_path(path, (0, 2)).name} ... {_how_to_get(path)}"
    )
