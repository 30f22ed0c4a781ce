"""Checkpoints that survive a kill at any moment.

A run directory holds ``checkpoint-last.pth``, the one before it (``checkpoint-previous.pth``) and
``checkpoint-best.pth``. Each is written to a temporary file, flushed to disk, then renamed; a file under its
final name is therefore whole. Loading never unpickles code (``weights_only=True``).
"""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

FORMAT, VERSION = "coop3d-checkpoint", 1
LAST, PREVIOUS, BEST = "checkpoint-last.pth", "checkpoint-previous.pth", "checkpoint-best.pth"


class CheckpointError(ValueError):
    """A checkpoint file that cannot be used, named."""


def load_checkpoint(path: str | Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read one checkpoint on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself would load flipped bits without a word
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"checksum of {member} does not match")
        payload = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged archive raises many types; the file is what matters
        raise CheckpointError(
            f"{path}: cannot be read, the file is damaged or is no checkpoint ({error})."
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint written by coop3d training (no format={FORMAT!r}).")
    if payload["version"] != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {payload['version']}, this code reads {VERSION}.")
    return payload


def write_atomic(payload: dict[str, Any], path: Path) -> None:
    """Write so that ``path`` is either what it was or the whole new file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path}: could not be written ({error}); the previous checkpoint is untouched."
        ) from error
    _fsync_directory(path.parent)


class CheckpointStore:
    """The checkpoints of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._damaged: list[Path] = []

    def save(self, payload: dict[str, Any], best: bool = False) -> None:
        """Make ``payload`` the last checkpoint, keep the one before it, and mark it best where it is."""
        last, staged = self.run_dir / LAST, self.run_dir / ".checkpoint-next.pth"
        write_atomic({"format": FORMAT, "version": VERSION, **payload}, staged)
        if last.exists():
            os.replace(last, self.run_dir / PREVIOUS)
        os.replace(staged, last)
        if best:
            self._link(last, self.run_dir / BEST)
        _fsync_directory(self.run_dir)

    def load_latest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, or None in a fresh directory.

        A damaged last file is named in the log, and the previous one is used.

        Raises:
            CheckpointError: if there are checkpoints and none can be read.
        """
        names = [name for name in (LAST, PREVIOUS) if (self.run_dir / name).exists()]
        errors: list[CheckpointError] = []
        self._damaged = []
        for name in names:
            path = self.run_dir / name
            try:
                payload = load_checkpoint(path)
            except CheckpointError as error:
                log.error("%s", error)
                errors.append(error)
                self._damaged.append(path)
                continue
            if errors:
                log.warning("%s: used instead; training goes on from step %d.", path, payload["step"])
            return payload
        if errors:
            raise CheckpointError(
                " ".join(map(str, errors)) + " No whole checkpoint is left; start in another hydra.run.dir."
            )
        return None

    def set_aside_damaged(self) -> None:
        """Rename what :meth:`load_latest` could not read, so that it never displaces a whole checkpoint."""
        for path in self._damaged:
            os.replace(path, path.with_suffix(".damaged"))
        self._damaged = []

    @staticmethod
    def _link(source: Path, target: Path) -> None:
        """Same content under a second name, by hard link where there are such: files are never edited."""
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
