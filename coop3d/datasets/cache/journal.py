"""Finished panoramas of a build that may be killed at any moment: append-only files of checked records."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from coop3d.datasets.cache.format import crc32, differences
from coop3d.datasets.errors import DataError
from coop3d.files import lock_at_once

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<4sIIQ")  # magic, CRC-32 of what follows, length of the JSON part, length of the rest
_MAGIC = b"c3dJ"


@dataclass(frozen=True)
class Record:
    """JSON facts and named bytes."""

    meta: dict[str, Any]
    parts: dict[str, bytes]

    def pack(self) -> bytes:
        """As it lies in the journal."""
        meta = json.dumps({"meta": self.meta, "parts": {k: len(v) for k, v in self.parts.items()}}).encode()
        body = b"".join([meta, *self.parts.values()])
        return _HEAD.pack(_MAGIC, crc32(body), len(meta), len(body) - len(meta)) + body

    @classmethod
    def unpack(cls, packed: bytes) -> Record:
        """Inverse of `pack`, for bytes that were checked or never left memory."""
        _, _, meta_length, _ = _HEAD.unpack_from(packed)
        at = _HEAD.size + meta_length
        head = json.loads(packed[_HEAD.size : at])
        parts = {}
        for name, length in head["parts"].items():
            parts[name] = packed[at : at + length]
            at += length
        return cls(head["meta"], parts)


class Place(NamedTuple):
    """Where a record lies."""

    part: str
    offset: int
    length: int


class Part:
    """The file that one process appends its records to."""

    def __init__(self, journal: Path) -> None:
        self.name = f"{os.getpid()}-{time.time_ns()}.part"
        self._file = open(journal / self.name, "xb")  # noqa: SIM115 - lives as long as its process
        self._end = 0

    def append(self, packed: bytes) -> Place:
        """Add one record; once this returns, killing the process does not lose it."""
        self._file.write(packed)
        self._file.flush()
        place = Place(self.name, self._end, len(packed))
        self._end += len(packed)
        return place


class Journal:
    """A folder of parts, one per process that ever worked on the build, and the settings of the build.

    A write that a kill cut short leaves a tail whose checksum is wrong; it is passed over. The folder is locked
    while open, so two builds cannot share it.

    Args:
        path: folder to begin or to continue.
        settings: what the build is; must equal what the folder says.

    Raises:
        DataError: another build holds the journal, or it was begun with other settings, or is no journal.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._open_parts: dict[str, BinaryIO] = {}
        self._check_kind()
        path.mkdir(parents=True, exist_ok=True)
        self._lock = open(path / "lock", "wb")  # noqa: SIM115 - held until close()
        try:
            self._claim(dict(settings))
        except BaseException:
            self.close()
            raise

    def _check_kind(self) -> None:
        known = {"lock", "settings.json", "settings.tmp"}
        if self.path.exists() and not (
            self.path.is_dir() and all(p.name in known or p.suffix == ".part" for p in self.path.iterdir())
        ):
            raise DataError(f"{self.path}: not the journal of a build; move it away")

    def _claim(self, settings: dict[str, Any]) -> None:
        try:
            lock_at_once(self._lock, self.path)  # the kernel releases it when the process dies
        except BlockingIOError as error:
            raise DataError(
                f"{self.path}: another build of the same file is running; wait for it, or end it first"
            ) from error
        recorded = self.path / "settings.json"
        if not recorded.exists():
            temporary = recorded.with_suffix(".tmp")
            temporary.write_text(json.dumps(settings, indent=1))
            os.replace(temporary, recorded)
        elif changed := differences(json.loads(recorded.read_text()), settings):
            raise DataError(
                f"{self.path}: this build was begun with other settings ({'; '.join(changed)}). Repeat the command "
                f"it was begun with, choose another --output, or delete {self.path.name} to start over."
            )

    def replay(self) -> Iterator[Record]:
        """Records of earlier runs."""
        for path in sorted(self.path.glob("*.part")):
            with open(path, "rb") as file:
                while (packed := _next_record(file)) is not None:
                    yield Record.unpack(packed)
                if torn := os.fstat(file.fileno()).st_size - file.tell():
                    log.info("%s: passed over %d bytes of an unfinished record", path, torn)

    def read(self, place: Place) -> Record:
        """A record that a process of this run has appended."""
        if place.part not in self._open_parts:
            self._open_parts[place.part] = open(self.path / place.part, "rb")  # noqa: SIM115
        file = self._open_parts[place.part]
        return Record.unpack(os.pread(file.fileno(), place.length, place.offset))

    def close(self) -> None:
        """Let another process continue."""
        for file in self._open_parts.values():
            file.close()
        self._lock.close()

    def discard(self) -> None:
        """The build is finished and its file in place."""
        remove_journal(self.path)
        self.close()


def remove_journal(path: Path) -> None:
    """Delete what a build left."""
    shutil.rmtree(path, ignore_errors=True)


def _next_record(file: BinaryIO) -> bytes | None:
    """The next record, or None with the position unchanged when there is no whole one."""
    start = file.tell()
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, crc, meta_length, rest = _HEAD.unpack(head)
        left = os.fstat(file.fileno()).st_size - start - _HEAD.size
        if magic == _MAGIC and meta_length + rest <= left:
            body = file.read(meta_length + rest)
            if crc32(body) == crc:
                return head + body
    file.seek(start)
    return None
