"""Files that appear whole or not at all, locks, and names that are safe as file names."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
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


def lock_at_once(file: int | IO[Any], path: Path, *, by_process: bool = False) -> None:
    """Lock an open file, ``path`` or one in it, until its holders close it or die; say so where there are no locks.

    Args:
        file: open for writing.
        path: named in messages.
        by_process: this process alone holds it, not those that it forks; and not against itself.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    lock = fcntl.lockf if by_process else fcntl.flock
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # POSIX leaves it open which
            raise BlockingIOError(error.errno, "locked", str(path)) from error
        if error.errno not in WITHOUT_LOCKS:
            raise
        log.warning("%s: this file system has no locks; nothing else may work on it now", path)


def safe_name(text: str) -> str:
    """``text`` as part of a file name: letters, digits, ``_``, ``-`` and ``.`` stay, everything else becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".") or "_"
