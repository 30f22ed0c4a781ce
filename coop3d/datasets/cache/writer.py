"""The one process that writes HDF5: compressed chunks go straight into a temporary file, renamed when whole."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.cache.format import NAMES, NO_RIG, CacheSettings, images_of, level_of
from coop3d.datasets.cache.journal import Record
from coop3d.types import SampleKey

RIG_ARRAYS = {"source": np.uint8, "origins": np.float32, "T_pano_cam": np.float64, "intrinsics": np.float64}


def rig_bytes(arrays: Mapping[str, NDArray]) -> bytes:
    """Arrays of one rig, self-describing and compressed: JSON line of shapes, then the bytes."""
    shapes = {name: list(arrays[name].shape) for name in RIG_ARRAYS}
    data = [np.ascontiguousarray(arrays[name], dtype).tobytes() for name, dtype in RIG_ARRAYS.items()]
    return zlib.compress(json.dumps(shapes).encode() + b"\n" + b"".join(data))


def rig_arrays(data: bytes) -> dict[str, NDArray]:
    """Inverse of `rig_bytes`."""
    head, _, rest = zlib.decompress(data).partition(b"\n")
    arrays = {}
    for name, shape in json.loads(head).items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(rest, RIG_ARRAYS[name], count).reshape(shape)
        rest = rest[arrays[name].nbytes :]
    return arrays


class CacheWriter:
    """Writes ``path`` under a temporary name; nothing appears at ``path`` before `finish`.

    Args:
        path: the final file.
        settings: of the file.
        keys: of every frame the file is about, in order.
        T_world_rig: [N, 4, 4] their poses.
    """

    def __init__(
        self,
        path: Path,
        settings: CacheSettings,
        keys: Sequence[SampleKey],
        T_world_rig: NDArray[np.float64],
    ) -> None:
        self.path, self.settings, self.keys = path, settings, keys
        self._temporary = path.with_name(f".{path.name}.tmp")  # the journal's lock makes it ours
        # no lock of its own: the journal's is enough, and some file systems have none
        self._file = h5py.File(self._temporary, "w", libver=("v110", "v110"), locking=False)
        n, camera = len(keys), settings.recipe.camera
        level = level_of(settings.compression)
        self._images: dict[str, h5py.Dataset] = {}
        for name, spec in images_of(settings.recipe.kind).items():
            shape = spec.shape(camera.height, camera.width)
            filters = {"compression": "gzip", "compression_opts": level, "shuffle": spec.shuffled}
            self._images[name] = self._file.create_dataset(
                name, (n, *shape), spec.dtype, chunks=(1, *shape), fillvalue=spec.fill,
                **(filters if level else {}),
            )  # fmt: skip
        self._T_world_rig = T_world_rig
        self._T_world_pano = np.full((n, 4, 4), np.nan)
        self._rig_of: list[str | None] = [None] * n
        self._rigs: dict[str, bytes] = {}
        self._complete = np.zeros(n, np.uint8)
        self._problems = [""] * n

    def write(self, record: Record) -> None:
        """One finished panorama, or one frame that cannot be used."""
        row = record.meta["row"]
        if "problem" in record.meta:
            self._problems[row] = record.meta["problem"]
            return
        for name, dataset in self._images.items():
            dataset.id.write_direct_chunk((row, *(0 for _ in dataset.shape[1:])), record.parts[name])
        self._T_world_pano[row] = np.reshape(record.meta["T_world_pano"], (4, 4))
        self._rig_of[row] = record.meta["rig"]
        self._rigs.setdefault(record.meta["rig"], record.parts["rig"])
        self._complete[row] = 1

    def finish(self, config: Mapping[str, Any]) -> None:
        """Write what is known only now, flush to the disk, and give the file its name."""
        file, text = self._file, h5py.string_dtype("utf-8")
        numbers = {digest: i for i, digest in enumerate(dict.fromkeys(d for d in self._rig_of if d))}
        for digest, number in numbers.items():  # numbered by first use: no matter which worker came first
            group = file.create_group(f"rigs/{number}")
            for name, array in rig_arrays(self._rigs[digest]).items():
                group.create_dataset(name, data=array)
        file.require_group("rigs")
        file["rig"] = np.array([numbers[d] if d else NO_RIG for d in self._rig_of], np.uint16)
        file["T_world_pano"], file["T_world_rig"] = self._T_world_pano, self._T_world_rig
        for i, name in enumerate(NAMES):
            file.create_dataset(name, data=[key[i] for key in self.keys], dtype=text)
        file["complete"] = self._complete
        file.create_dataset("problem", data=self._problems, dtype=text)
        for name, value in {**self.settings.attributes(), "config": json.dumps(config, indent=1)}.items():
            file.attrs[name] = value
        file.close()
        with open(self._temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Forget the temporary file (what it held is in the journal)."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
