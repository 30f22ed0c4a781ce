"""Files that appear whole or not at all, locks, and names that are safe as file names."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # e.g. Lustre mounted without them


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to, with the same ending; it takes ``path``'s place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> Path:
    """Write a whole file: readers see the old one or the new one, never half."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """The same for UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def lock_at_once(file: int | IO[Any], path: Path) -> None:
    """Lock an open file, ``path`` or one in it, until its holders close it or die; say so where there are no locks.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        log.warning("%s: this file system has no locks; nothing else may work on it now", path)


def safe_name(text: str) -> str:
    """``text`` as part of a file name: letters, digits, ``_``, ``-`` and ``.`` stay, everything else becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".") or "_"


def names_apart(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell all of them apart.

    Raises:
        ValueError: two are the same.
    """
    for length in range(1, max((len(p.parts) for p in paths), default=0) + 2):
        names = ["/".join(p.parts[-length:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"one path is given twice: {', '.join(map(str, paths))}")
