"""Predictions for files that belong to no dataset: panorama pictures, frames of OPV2V, a panorama cache. No truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from coop3d.conf import ConfigError, build, has_key
from coop3d.datasets import CachedPanoramas, make_batch
from coop3d.datasets.cache.format import differences
from coop3d.datasets.opv2v import DEFAULT_CAMERAS, FrameEntry, read_image
from coop3d.datasets.opv2v.entry import image_name
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.training.inspection.sample import Inspection, predict
from coop3d.training.run import Run
from coop3d.types import SampleKey, ViewInputs

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LARGEST_STRETCH = 0.02  # by which a picture's aspect may differ from the model's panoramas


def inspect_files(paths: Sequence[Path], run: Run, index: int = 0) -> Inspection:
    """A model's prediction for files: the first is the reference vehicle; no ground truth is read.

    Args:
        paths: pictures of panoramas, one per vehicle; or ``{scenario}/{agent}/{frame}.yaml`` of OPV2V, one per vehicle
            of one instant; or one panorama cache (``.h5``) of panoramas as the run's, of which ``index`` names the
            instant.
        run: the model, and the panoramas it was trained on.
        index: of the instant in a cache.

    Raises:
        ValueError: kinds are mixed, files do not exist, they do not fit the model's panoramas, or frames are not
            different vehicles at one instant.
        DataError: a file cannot be read.
    """
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise ValueError(f"--data: no such file: {', '.join(missing)}")
    kinds = {p.suffix.lower() for p in paths}
    if kinds == {".yaml"}:
        inputs, keys = _frames(paths, run)
    elif kinds == {".h5"} and len(paths) == 1:
        inputs, keys = _cached(paths[0], index, run)
    elif kinds and kinds <= set(PICTURES):
        inputs, keys = _pictures(paths, run)
    else:
        raise ValueError(
            f"--data takes panorama pictures ({', '.join(PICTURES)}), OPV2V frames (.yaml) or one panorama cache "
            f"(.h5), found endings {', '.join(sorted(kinds)) or 'of no file'}"
        )
    predicted = predict(run, inputs)
    return Inspection(inputs=inputs, targets=None, keys=(keys,), predicted=predicted, shown=predicted)


def _recipe(run: Run) -> PanoramaRecipe:
    """How the run's panoramas are made, without range."""
    if not has_key(run.config, "dataset.camera"):
        raise ConfigError(
            f"{run.checkpoint}: its config has no dataset.camera, so which panoramas the model knows is not said; "
            "--data needs a model trained on panoramas"
        )
    names = ("kind", "centre", "exposure")
    options = {k: run.config.dataset[k] for k in names if k in run.config.dataset}
    return PanoramaRecipe(build(run.config, "dataset.camera"), depth_source="none", **options)


def _frames(paths: Sequence[Path], run: Run) -> tuple[ViewInputs, tuple[SampleKey, ...]]:
    recipe, stitcher = _recipe(run), None
    cameras = tuple(run.config.dataset.get("cameras", DEFAULT_CAMERAS))
    vehicles = []
    paths = [p.resolve() for p in paths]
    keys = [SampleKey(p.parent.parent.name, p.parent.name, p.stem) for p in paths]
    _check_one_instant(paths, keys)
    for path, key in zip(paths, keys, strict=True):
        entry = FrameEntry(key=key, folder=path.parent, camera_names=cameras, has_cloud=False)
        absent = [c for c in cameras if not (path.parent / image_name(path.stem, c)).is_file()]
        if absent:
            raise ValueError(
                f"--data {path}: no photograph {image_name(path.stem, absent[0])} beside it; expected one of each of "
                f"{', '.join(cameras)}"
            )
        stitcher = stitcher if stitcher is not None else recipe.stitcher()
        vehicles.append((stitcher(recipe.load_frame(entry)),))
    batch = make_batch(vehicles)
    return batch.inputs, batch.keys[0]


def _check_one_instant(paths: Sequence[Path], keys: Sequence[SampleKey]) -> None:
    """Refuse frames of several instants, and one vehicle given twice."""
    first = keys[0]
    for k, (path, key) in enumerate(zip(paths, keys, strict=True)):
        if (key.scenario, key.frame) != (first.scenario, first.frame):
            raise ValueError(
                f"--data {path}: is scenario {key.scenario}, frame {key.frame}; expected scenario {first.scenario}, "
                f"frame {first.frame} as {paths[0]}. Give frames of one instant; draw others as pages of their own"
            )
        if key in keys[:k]:
            raise ValueError(f"--data {path}: vehicle {key.agent} is given twice; give each vehicle once")


def _check_cache(path: Path, source: CachedPanoramas, run: Run) -> None:
    """Refuse panoramas of another make than the run's; where their range comes from does not matter here."""
    found = source.files[0].settings
    recipe = replace(_recipe(run), depth_source=found.recipe.depth_source)
    if changed := differences(found.described(), replace(found, recipe=recipe).described()):
        raise ValueError(
            f"--data {path}: holds other panoramas than {run.checkpoint} was trained on ({'; '.join(changed)}). "
            "Build a cache of the wanted ones with scripts/build_panorama_cache.py, or give the frames (.yaml)"
        )


def _cached(path: Path, index: int, run: Run) -> tuple[ViewInputs, tuple[SampleKey, ...]]:
    source = CachedPanoramas(path)
    _check_cache(path, source, run)
    instants = source.index.instants
    if not 0 <= index < len(instants):
        raise ValueError(f"--index {index} is outside the {len(instants)} instants of {path}")
    batch = make_batch([source.load(entry) for entry in instants[index].entries])
    return batch.inputs, batch.keys[0]


def _pictures(paths: Sequence[Path], run: Run) -> tuple[ViewInputs, tuple[SampleKey, ...]]:
    """Rays are those of the run's camera; all start at the centre, as a picture does not say otherwise."""
    camera = _recipe(run).camera
    images = [_fitted(path, camera.width, camera.height) for path in paths]
    rays = torch.from_numpy(camera.rays().astype(np.float32)).expand(1, len(paths), -1, -1, -1)
    image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255.0)[None]
    keys = tuple(SampleKey("pictures", path.stem, "0") for path in paths)
    return ViewInputs(image=image, rays=rays, origins=torch.zeros_like(rays)), keys


def _fitted(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """[height, width, 3] RGB."""
    image = read_image(path)
    stretch = (image.shape[1] / image.shape[0]) / (width / height)
    if abs(stretch - 1) > LARGEST_STRETCH:
        raise ValueError(
            f"--data {path}: the picture is {image.shape[1]} x {image.shape[0]}, the model's panoramas are {width} x "
            f"{height}; expected the same aspect (a full circle, and the same vertical field of view)"
        )
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
