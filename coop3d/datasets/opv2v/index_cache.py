"""A full index kept on disk: listing folders and reading tens of thousands of poses is done once.

What is noticed: a frame, photograph, cloud, depth file, vehicle or scenario added, removed or renamed (the folder's
modification time changes), and a YAML rewritten in place (its size or modification time changes). What is not:
a YAML edited so that both stay the same, and the contents of all other files, of which an index holds nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.opv2v.entry import DEPTH_KINDS, FrameEntry
from coop3d.datasets.opv2v.listing import AUTO, Listing, Skipped
from coop3d.datasets.opv2v.poses import LidarPoses
from coop3d.files import replacing
from coop3d.types import SampleKey

log = logging.getLogger(__name__)

VERSION = 2
# A file changed so shortly before it was looked at may change again within the same tick of its clock.
SETTLED_NS = 2_000_000_000


def cache_folder() -> Path:
    """``$COOP3D_CACHE_DIR``, else ``$XDG_CACHE_HOME/coop3d``, else ``~/.cache/coop3d``."""
    own = os.environ.get("COOP3D_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coop3d"


class IndexCache:
    """The file that keeps the index of one split.

    Args:
        split_dir: folder of the split's photographs.
        depth_dir: folder of the split's depth, or None.
        cameras: as `OPV2VIndex`.
    """

    def __init__(self, split_dir: Path, depth_dir: Path | None, cameras: Sequence[str]) -> None:
        self._split_dir, self._depth_dir = split_dir, depth_dir
        self._any_rig = cameras == AUTO
        places = [None if p is None else str(p.absolute()) for p in (split_dir, depth_dir)]
        self._identity = json.dumps([VERSION, *places, cameras])
        self._started_ns = time.time_ns()
        self.path = cache_folder() / f"index-{hashlib.sha256(self._identity.encode()).hexdigest()[:24]}.npz"

    def load(self) -> Listing | None:
        """The kept index with its poses; None if there is none, it is damaged, or anything changed since."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            meta = json.loads(str(kept["meta"]))
            if meta["identity"] != self._identity:
                return None
            listing = self._listing(kept, meta)
            changes = _stamps(listing.folders), _stamps(_yaml_paths(listing.frames))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.info("%s: index is not usable (%r); listing the split again", self.path, error)
            return None
        for now, then in zip(changes, (kept["folder_stamps"], kept["yaml_stamps"]), strict=True):
            if not np.array_equal(now, then) or (
                len(now) and now[:, 0].max() > meta["started_ns"] - SETTLED_NS
            ):
                log.info("%s: the split changed since; listing it again", self.path)
                return None
        return listing

    def save(self, listing: Listing) -> None:
        """Keep an index with its poses, atomically. An unwritable folder is not an error."""
        assert listing.poses is not None
        folders = [self._relative(folder) for folder in listing.folders]
        number = {folder: i for i, folder in enumerate(listing.folders)}
        camera_sets = sorted({entry.camera_names for entry in listing.frames})
        meta = {
            "identity": self._identity,
            "started_ns": self._started_ns,
            "folders": folders,
            "camera_sets": camera_sets,
            "skipped": [[*s.key, s.reason] for s in listing.skipped],
            "pose_errors": {str(i): reason for i, reason in listing.poses.errors.items()},
        }
        nowhere = -1
        entries = listing.frames
        arrays = {
            "meta": np.array(json.dumps(meta)),
            "folder_stamps": _stamps(listing.folders),
            "yaml_stamps": _stamps(_yaml_paths(entries)),
            "frame": np.array([e.key.frame for e in entries]),
            "folder": np.array([number[e.folder] for e in entries], np.int32),
            "depth_folder": np.array(
                [nowhere if e.depth_folder is None else number[e.depth_folder] for e in entries], np.int32
            ),
            "depth_kind": np.array([DEPTH_KINDS.index(e.depth_kind) for e in entries], np.uint8),
            "cameras": np.array([camera_sets.index(e.camera_names) for e in entries], np.int32),
            "has_cloud": np.array([e.has_cloud for e in entries], bool),
            "poses": listing.poses.values,
        }
        try:
            with replacing(self.path) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            log.info(
                "%s: index cannot be kept (%s); set COOP3D_CACHE_DIR to a writable folder", self.path, error
            )

    def _listing(self, kept: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Listing:
        folders = [self._absolute(*place) for place in meta["folders"]]
        camera_sets = [tuple(names) for names in meta["camera_sets"]]
        columns = [
            kept[c].tolist()
            for c in ("frame", "folder", "depth_folder", "depth_kind", "cameras", "has_cloud")
        ]
        values = kept["poses"]
        if values.shape != (len(columns[0]), 6) or not np.isfinite(values).all():
            raise ValueError(f"poses of shape {values.shape}")
        names = [(f.parent.name, f.name) for f in folders]
        frames = [
            FrameEntry(
                key=SampleKey(names[folder][0], names[folder][1], frame),
                folder=folders[folder],
                camera_names=camera_sets[cameras],
                has_cloud=has_cloud,
                depth_folder=None if depth_folder < 0 else folders[depth_folder],
                depth_kind=DEPTH_KINDS[kind],
                any_rig=self._any_rig,
            )
            for frame, folder, depth_folder, kind, cameras, has_cloud in zip(*columns, strict=True)
        ]
        skipped = [Skipped(SampleKey(s, a, f), reason) for s, a, f, reason in meta["skipped"]]
        errors = {int(i): reason for i, reason in meta["pose_errors"].items()}
        return Listing(frames, skipped, folders, LidarPoses(values, errors))

    def _relative(self, folder: Path) -> tuple[str, str]:
        """(root, path below it): paths come back as the caller spells the roots."""
        if self._depth_dir is not None and folder.is_relative_to(self._depth_dir):
            return "depth", str(folder.relative_to(self._depth_dir))
        return "split", str(folder.relative_to(self._split_dir))

    def _absolute(self, root: str, below: str) -> Path:
        base = self._split_dir if root == "split" else self._depth_dir
        if base is None:
            raise ValueError("an index with depth, for a split without")
        return base / below


def _yaml_paths(entries: Sequence[FrameEntry]) -> Iterable[str]:
    folders: dict[Path, str] = {}
    for entry in entries:
        yield f"{folders.setdefault(entry.folder, str(entry.folder))}/{entry.key.frame}.yaml"


def _stamps(paths: Iterable[Path | str]) -> NDArray[np.int64]:
    """[N, 2] modification time in nanoseconds, and size; (0, -1) for what does not exist."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append((status.st_mtime_ns, status.st_size))
        except FileNotFoundError:
            found.append((0, -1))
    return np.array(found, np.int64).reshape(-1, 2)
