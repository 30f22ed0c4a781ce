"""Checkpoints by name, and what identifies one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coop3d.conf import ConfigError
from coop3d.files import names_apart
from coop3d.training.checkpoint import BEST, CheckpointError


def checkpoint_file(path: str | Path) -> Path:
    """The file itself; a run directory means its best checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    path = path / BEST if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint.")
    return path


def identified(file: Path) -> dict[str, Any]:
    """A checkpoint's path and hash, as results record them."""
    return {"path": str(file.resolve()), "sha256": file_sha256(file)}


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def model_names(paths: Sequence[str | Path]) -> list[str]:
    """``model`` for one checkpoint; for several their file names, with as many folders as tell them apart.

    Raises:
        ConfigError: one file is named twice.
    """
    if not paths:
        raise ConfigError("checkpoint=[] names no checkpoint.")
    if len(paths) == 1:
        return ["model"]
    files = [checkpoint_file(p).resolve().with_suffix("") for p in paths]
    try:
        return names_apart(files)
    except ValueError as error:
        raise ConfigError(f"checkpoint: {', '.join(map(str, paths))} name one file twice.") from error
