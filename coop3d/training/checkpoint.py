"""Checkpoints that survive a kill at any moment.

A run directory holds ``checkpoint-last.pth``, the one before it (``checkpoint-previous.pth``) and
``checkpoint-best.pth``. Each is written to a temporary file, flushed to disk, then renamed; a file under its
final name is therefore whole. Loading never unpickles code (``weights_only=True``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from coop3d.training.distributed import Processes

log = logging.getLogger(__name__)

FORMAT, VERSION = "coop3d-checkpoint", 2
READABLE = (1, 2)  # 1 counted the optimiser's parameters instead of naming them
LISTED = 6  # changed keys in a message
LAST, PREVIOUS, BEST = "checkpoint-last.pth", "checkpoint-previous.pth", "checkpoint-best.pth"


class CheckpointError(ValueError):
    """A checkpoint file that cannot be used, named."""


class CheckpointWriteError(OSError):
    """A checkpoint that could not be written; the one before it is whole."""


def load_checkpoint(path: str | Path, verify: bool = True, mapped: bool = False) -> dict[str, Any]:
    """Read one checkpoint on the CPU.

    Args:
        path: the file.
        verify: compare checksums first.
        mapped: leave tensors in the file until they are used; processes on one machine then share one copy.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    try:
        if verify:
            _verify(path)
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged archive raises errors of many types; all mean the same
        raise CheckpointError(
            f"{path}: cannot be read, the file is damaged or is no checkpoint ({error})."
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint written by coop3d training (no format={FORMAT!r}).")
    if payload["version"] not in READABLE:
        raise CheckpointError(f"{path}: checkpoint version {payload['version']}, this code reads {READABLE}.")
    return payload


def _verify(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:  # torch itself loads flipped bits without an error
        if (member := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"checksum of {member} does not match")


def write_atomic(payload: dict[str, Any], path: Path) -> None:
    """Write so that ``path`` is either what it was or the whole new file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 2**30
        raise CheckpointWriteError(
            f"{path}: could not be written ({error}; {free:.1f} GiB free there); the previous checkpoint is "
            "untouched. Make room and start again with the same hydra.run.dir: the run goes on from it."
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
        if best:  # first: a last checkpoint that knows of a best one must find it
            self._link(staged, self.run_dir / BEST)
        if last.exists():
            # Not renamed: who evaluates a run while it trains must find the last one at every moment.
            self._link(last, self.run_dir / PREVIOUS)
        os.replace(staged, last)
        _fsync_directory(self.run_dir)

    def keep_epoch(self, epoch: int, keep: int) -> None:
        """Name the last checkpoint after its epoch, and delete all but the newest ``keep`` such; 0 keeps none."""
        if keep:
            self._link(self.run_dir / LAST, self.run_dir / f"checkpoint-{epoch}.pth")
        named = [
            p for p in self.run_dir.glob("checkpoint-*.pth") if p.stem.removeprefix("checkpoint-").isdigit()
        ]
        by_age = sorted(named, key=lambda p: int(p.stem.removeprefix("checkpoint-")))
        for old in by_age[: max(0, len(by_age) - keep)]:
            old.unlink()

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None in a fresh directory.

        A damaged last file is named in the log, and the previous one is used.

        Raises:
            CheckpointError: if there are checkpoints and none can be read.
        """
        paths = [self.run_dir / name for name in (LAST, PREVIOUS) if (self.run_dir / name).exists()]
        errors: list[CheckpointError] = []
        self._damaged = []
        for path in paths:
            try:
                step = load_checkpoint(path, mapped=True)["step"]
            except CheckpointError as error:
                log.error("%s", error)
                errors.append(error)
                self._damaged.append(path)
                continue
            if errors:
                log.warning("%s: used instead; training goes on from step %d.", path, step)
            return path
        if errors:
            raise CheckpointError(
                " ".join(map(str, errors)) + " No whole checkpoint is left; start in another hydra.run.dir."
            )
        return None

    def set_aside_damaged(self) -> None:
        """Rename what :meth:`latest` could not read, so that it never displaces a whole checkpoint."""
        for path in self._damaged:
            os.replace(path, path.with_suffix(".damaged"))
        self._damaged = []

    @staticmethod
    def _link(source: Path, target: Path) -> None:
        """Give a file a second name: a hard link (files are never edited), or a copy where links are not supported."""
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # POSIX leaves it where the target already was this file


def newest_checkpoint(store: CheckpointStore, processes: Processes) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and what it holds: process 0 checks, then all read the same file.

    Raises:
        CheckpointError: on every process, if there are checkpoints and none can be read.
    """
    path, error = None, None
    if processes.is_main:
        try:
            path = store.latest()
            store.set_aside_damaged()
        except CheckpointError as caught:
            error = caught
    processes.together(error)
    path = processes.gather(path)[0]
    # From the page cache, one copy for all processes; on a CPU the tensors would stay tied to the file.
    mapped = processes.device.type == "cuda"
    return None if path is None else (path, load_checkpoint(path, verify=False, mapped=mapped))


@contextlib.contextmanager
def must_fit(path: Path, changes: Sequence[str]) -> Iterator[None]:
    """Around loading the weights a run goes on from; ``changes`` of its config, as `config_changes` lists them.

    Raises:
        CheckpointError: they do not fit the model of the config.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = [line for line in changes if line.startswith(("model", "preset"))]
        more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        what = f"Changed since: {'; '.join(lines[:LISTED])}{more}" if lines else f"The code changed: {error}"
        raise CheckpointError(
            f"{path}: its weights do not fit the model of this config. {what}. Use another hydra.run.dir, or the model "
            "with which this run began."
        ) from error


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def config_changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Leaves that differ between two plain containers, as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new}, key=str)
        dotted = [(k, f"{path}.{k}" if path else str(k)) for k in keys]
        return [line for k, p in dotted for line in config_changes(old.get(k), new.get(k), p)]
    return [] if old == new else [f"{path}: {old} -> {new}"]
