"""The panorama cache's HDF5 layout (version 1): names, types, compression, settings. See docs/cache.md."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.geometry.cameras import PROJECTIONS
from coop3d.types import Panorama, SampleKey

try:  # five times faster at the same size; its streams are zlib's
    from isal import isal_zlib as fast_zlib
except ImportError:  # no wheel for this platform
    import zlib as fast_zlib  # type: ignore[no-redef]

crc32 = fast_zlib.crc32
_ZLIB_ERRORS: Any = (zlib.error, fast_zlib.error)

FORMAT, VERSION = "coop3d-panorama", 1
NO_RIG = 0xFFFF  # `rig` of a frame that could not be used
NAMES = ("scenario", "agent", "frame")
FLAGS = ("covered", "valid", "non_ambiguous", "mask_known")  # bits 0..3
COMPRESSIONS = ("none", *(f"gzip-{level}" for level in range(1, 10)))
DEFAULT_COMPRESSION = "gzip-2"
_REBUILD = "Build it again with scripts/build_panorama_cache.py."


class ImageSpec(NamedTuple):
    """One per-pixel dataset: ``[N, H, W, *extra]``, a chunk per panorama."""

    dtype: type
    extra: tuple[int, ...]
    fill: float  # what a frame without data reads as

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of one panorama."""
        return (height, width, *self.extra)

    @property
    def shuffled(self) -> bool:
        """Bytes of equal significance lie together: floats compress better, single bytes have no others."""
        return np.dtype(self.dtype).itemsize > 1


IMAGES = {
    "rgb": ImageSpec(np.uint8, (3,), 0),
    "range_m": ImageSpec(np.float32, (), np.nan),
    "flags": ImageSpec(np.uint8, (), 0),
}
SOURCE = {"source": ImageSpec(np.uint8, (), 255)}


def images_of(kind: str) -> dict[str, ImageSpec]:
    """Per-pixel datasets of a file: only in a ``rig`` panorama does the rig alone decide the source camera."""
    return IMAGES if kind == "rig" else {**IMAGES, **SOURCE}


def image_arrays(panorama: Panorama) -> dict[str, NDArray]:
    """What the file keeps of a panorama's pixels."""
    arrays: dict[str, NDArray] = {"rgb": panorama.rgb, "range_m": panorama.range_m}
    bits = [getattr(panorama, name).astype(np.uint8) << bit for bit, name in enumerate(FLAGS)]
    arrays["flags"] = np.bitwise_or.reduce(bits)
    if panorama.kind != "rig":
        arrays["source"] = panorama.source
    return arrays


def masks(flags: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """The four masks of a ``flags`` image."""
    return {name: (flags & (1 << bit)).astype(bool) for bit, name in enumerate(FLAGS)}


def level_of(compression: str) -> int:
    """``gzip-N`` to N, ``none`` to 0.

    Raises:
        ValueError: neither.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression is {compression!r}, expected one of {COMPRESSIONS}")
    return 0 if compression == "none" else int(compression.removeprefix("gzip-"))


def encode(image: NDArray, spec: ImageSpec, level: int) -> bytes:
    """A chunk's bytes as HDF5's own filters (shuffle, then gzip) would store them."""
    plain: NDArray = np.ascontiguousarray(image, spec.dtype)
    if not level:
        return plain.tobytes()
    if spec.shuffled:
        plain = np.ascontiguousarray(plain.view(np.uint8).reshape(-1, plain.itemsize).T)
    return (fast_zlib if level <= 3 else zlib).compress(plain.data, level)


def decode(chunk: bytes, spec: ImageSpec, shape: tuple[int, ...], level: int) -> NDArray:
    """Inverse of `encode`.

    Raises:
        ValueError: the bytes are damaged or of another size.
    """
    if level:
        try:
            chunk = fast_zlib.decompress(chunk)
        except _ZLIB_ERRORS as error:
            raise ValueError(str(error)) from error
    itemsize = np.dtype(spec.dtype).itemsize
    if len(chunk) != int(np.prod(shape)) * itemsize:
        raise ValueError(f"{len(chunk)} bytes, expected {int(np.prod(shape)) * itemsize}")
    flat = np.frombuffer(chunk, np.uint8)
    if level and spec.shuffled:
        flat = flat.reshape(itemsize, -1).T
    return flat.copy(order="C").view(spec.dtype).reshape(shape)


def frames_hash(keys: Iterable[SampleKey]) -> str:
    """SHA-256 of the keys of a file's frames, in order."""
    return hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()


@dataclass(frozen=True)
class CacheSettings:
    """What decides the contents of a file. Equal settings, equal bytes.

    Attributes:
        recipe: how a panorama is made.
        split: which part of the data set.
        cameras: names every frame must have, or ``auto``, see `OPV2VIndex`.
        frames, frames_sha256: how many frames the file is about, and `frames_hash` of their keys.
        depth_files: whether a depth root was given (``depth_source=auto`` depends on it).
        shard: (i, n): this file is the i-th of n, counted from 0.
        compression: one of `COMPRESSIONS`.
    """

    recipe: PanoramaRecipe
    split: str
    cameras: str | tuple[str, ...]
    frames: int
    frames_sha256: str
    depth_files: bool
    shard: tuple[int, int] = (0, 1)
    compression: str = DEFAULT_COMPRESSION

    @property
    def panorama_kind(self) -> str:
        """``rig`` or ``central``: what a panorama is, while `recipe.kind` may also say how it was made."""
        return "rig" if self.recipe.kind == "rig" else "central"

    def attributes(self) -> dict[str, Any]:
        """Root attributes that describe the panoramas."""
        camera: Any = self.recipe.camera
        names = {cls: name for name, cls in PROJECTIONS.items()}
        if type(camera) not in names:
            raise ValueError(
                f"the cache holds {', '.join(PROJECTIONS)} panoramas, found a {type(camera).__name__}"
            )
        return {
            "format": FORMAT,
            "version": VERSION,
            "width": camera.width,
            "height": camera.height,
            "vertical_fov_deg": float(camera.vfov_deg),
            "elevation_center_deg": float(camera.elevation_center_deg),
            "projection": names[type(camera)],
            "kind": self.panorama_kind,
            "depth_source": self.recipe.depth_source,
            "centre": self.recipe.centre,
        }

    def described(self) -> dict[str, Any]:
        """Flat and plain: what two files, or a file and a command line, are compared by."""
        return {
            **self.attributes(),
            "kind": self.recipe.kind,
            "exposure": self.recipe.exposure,
            "split": self.split,
            "cameras": self.cameras if isinstance(self.cameras, str) else list(self.cameras),
            "frames": self.frames,
            "frames_sha256": self.frames_sha256,
            "depth_files": self.depth_files,
            "shard": list(self.shard),
            "compression": self.compression,
        }

    @classmethod
    def from_file(cls, path: Path, attributes: Mapping[str, Any]) -> CacheSettings:
        """From a file's root attributes.

        Raises:
            DataError: not a panorama cache, another version, or an attribute is missing or impossible.
        """
        if attributes.get("format") != FORMAT:
            raise DataError(
                f"{path}: attribute 'format' is {attributes.get('format')!r}, expected {FORMAT!r}: this is no "
                f"panorama cache. {_REBUILD}"
            )
        if attributes.get("version") != VERSION:
            raise DataError(
                f"{path}: attribute 'version' is {attributes.get('version')!r}, this program reads {VERSION}. "
                f"{_REBUILD}"
            )
        try:
            described = json.loads(attributes["config"])["settings"]
            camera = PROJECTIONS[attributes["projection"]](
                int(attributes["width"]),
                int(attributes["height"]),
                float(attributes["vertical_fov_deg"]),
                float(attributes["elevation_center_deg"]),
            )
            recipe = PanoramaRecipe(
                camera,
                str(attributes["depth_source"]),
                str(described["kind"]),
                str(attributes["centre"]),
                str(described["exposure"]),
            )
            i, n = described["shard"]
            cameras = described["cameras"]
            settings = cls(
                recipe,
                str(described["split"]),
                cameras if isinstance(cameras, str) else tuple(cameras),
                int(described["frames"]),
                str(described["frames_sha256"]),
                bool(described["depth_files"]),
                (int(i), int(n)),
                str(described["compression"]),
            )
            level_of(settings.compression)
        except KeyError as error:
            raise DataError(f"{path}: root attribute or config key {error} is missing. {_REBUILD}") from error
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: a root attribute is impossible: {error}. {_REBUILD}") from error
        wanted = settings.attributes()
        if changed := differences({name: attributes[name] for name in wanted}, wanted):
            raise DataError(f"{path}: root attributes contradict config ({'; '.join(changed)}). {_REBUILD}")
        return settings


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """``name: found ..., wanted ...`` of every key that is not equal."""
    names = list(dict.fromkeys([*wanted, *found]))
    return [
        f"{n}: found {found.get(n)!r}, wanted {wanted.get(n)!r}"
        for n in names
        if found.get(n) != wanted.get(n)
    ]


def shard_path(path: Path, shard: tuple[int, int]) -> Path:
    """``X.h5`` to ``X.shard-i-of-n.h5``; the whole (0, 1) keeps its name."""
    i, n = shard
    return path if n == 1 else path.with_name(f"{path.stem}.shard-{i}-of-{n}{path.suffix}")


def journal_path(path: Path) -> Path:
    """Where a build keeps finished panoramas until ``path`` is whole."""
    return path.with_name(f"{path.name}.journal")
