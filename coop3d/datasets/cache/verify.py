"""Does a cache hold what stitching gives today? A random sample, compared bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from coop3d.datasets.cache.reader import CacheFile
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.types import Panorama, SampleKey


@dataclass(frozen=True)
class Verification:
    """Outcome of `verify`."""

    checked: int
    differing: dict[SampleKey, str]  # and in what

    @property
    def ok(self) -> bool:
        """Whether every sample was equal, and there was one."""
        return self.checked > 0 and not self.differing


def verify(
    path: Path, index: OPV2VIndex, recipe: PanoramaRecipe, samples: int = 16, seed: int = 0
) -> Verification:
    """Stitch some frames of a finished cache file again and compare.

    Args:
        path: the file.
        index: the split it was built from.
        recipe: what it was made with.
        samples: how many frames, drawn without repetition; at most all of them.
        seed: of the draw.

    Raises:
        DataError: the file cannot be used.
    """
    by_key = {entry.key: entry for entry in index.frames}
    stitcher = recipe.stitcher()
    differing = {}
    with CacheFile(path) as file:
        chosen = np.random.default_rng(seed).permutation(len(file.keys))[:samples]
        for row in sorted(chosen.tolist()):
            key = file.keys[row]
            if what := _compare(file, row, by_key.get(key), index, recipe, stitcher):
                differing[key] = ", ".join(what)
    return Verification(len(chosen), differing)


def _compare(file, row, entry: FrameEntry | None, index, recipe, stitcher) -> list[str]:
    if entry is None:
        return ["no longer on disk"]
    partners = index.partners_of(entry) if recipe.depth_source == "fused" else ()
    try:
        fresh = stitcher(recipe.load_frame(entry, partners))
    except DataError as error:
        return [] if file.keys[row] in file.problems else [f"cannot be stitched: {error}"]
    try:
        return unequal_fields(file.read(row), fresh)
    except DataError as error:
        return [str(error)]


def unequal_fields(a: Panorama, b: Panorama) -> list[str]:
    """Names of the fields that are not the same bit by bit (NaN equals NaN)."""
    return [f.name for f in fields(Panorama) if not _same(getattr(a, f.name), getattr(b, f.name))]


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b
