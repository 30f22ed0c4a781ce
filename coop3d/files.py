"""Files that appear whole or not at all, JSON and CSV as text, locks, and names of files."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # e.g. Lustre mounted without them


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to, with the same ending; it takes ``path``'s place when the block succeeds.

    Raises:
        OSError: names ``path`` where the system names no file, as for a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """An ``OSError`` inside says which output cannot be written, and which option chooses another place."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"cannot write {path} ({reason}); choose another {option}") from error


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


def write_json(path: Path, value: Any, indent: int = 1) -> Path:
    """The same for JSON; what is no finite number becomes null."""
    return write_text(path, json.dumps(finite_json(value), indent=indent, allow_nan=False) + "\n")


def finite_json(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become null; keys and paths become text."""
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def csv_text(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A head and its lines; numbers are written so that they read back to the same bits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return buffer.getvalue()


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
    """``text`` as part of a file name: letters and digits of any script, ``_-.`` stay, all else becomes ``_``."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".") or "_"


def without_common_end(paths: Sequence[Path]) -> list[Path]:
    """The paths without the last folders that all of them share, which would lengthen every name."""
    shorter = list(paths)
    while (
        len(set(shorter)) > 1 and len({p.name for p in shorter}) == 1 and all(p.parent.name for p in shorter)
    ):
        shorter = [p.parent for p in shorter]
    return shorter


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
