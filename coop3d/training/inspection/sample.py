"""One cooperative sample with everything that pages, pictures and exports show of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from coop3d.conf import CONFIG_DIR, ConfigError, build, compose, has_key, require_paths
from coop3d.datasets import BadSample, DataError, collate_coop
from coop3d.datasets.opv2v import FrameEntry, VehicleBox, load_boxes, load_reported_pose, load_sweeps
from coop3d.geometry import invert_rigid, transform_points
from coop3d.training.data import CoopDataset
from coop3d.training.launch import prepare_machine
from coop3d.training.overrides import overridden
from coop3d.training.run import SPLITS, Run, load_run, without_augmentation
from coop3d.types import CoopBatch, FactoredPrediction, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization import OrientedBox, Scene, lidar_cloud, scene_from_prediction
from coop3d.visualization.export import ExportCloud, export_cloud
from coop3d.visualization.export.cloud import Kind
from coop3d.visualization.point_sources import PointSources

log = logging.getLogger(__name__)

LIDAR_POINTS = 30_000  # of one sweep on a page, at most; more could not be told apart
DEPTH_SOURCE_OF = {"gt_dense": "dense", "gt_sparse": "lidar"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the files say of a sample beside photographs and range; empty where its source has no files."""

    T_world_ref: NDArray[np.float64] | None = None  # [4, 4] reference panorama to the world
    T_lidar_ref: NDArray[np.float64] | None = None  # [4, 4] reference panorama to its vehicle's LiDAR
    lidar: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # view -> [N, 3] metres, view frame
    boxes: tuple[OrientedBox, ...] = ()
    T_ref_view_reported: NDArray[np.float64] | None = None  # [V, 4, 4]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One sample; with a model, its prediction, and the same with the factors that `sources` exchange."""

    inputs: ViewInputs
    targets: ViewTargets | None
    keys: tuple[tuple[SampleKey, ...], ...]  # 1 x V
    predicted: FactoredPrediction | None = None  # as the model returned it
    shown: FactoredPrediction | None = None  # after `sources` exchanged factors
    sources: PointSources = field(default_factory=PointSources)
    surroundings: Surroundings = field(default_factory=Surroundings)

    @property
    def stem(self) -> str:
        """Scenario, frame and reference: names the sample's files apart from those of the instant's other vehicles."""
        reference = self.keys[0][0]
        return f"{reference.scenario}_{reference.frame}_{reference.agent}"

    def scene(self, max_points: int = 200_000, seed: int = 0) -> Scene:
        """Clouds, poses, pictures and boxes; of ``max_points`` LiDAR sweeps together take at most a quarter."""
        lidar = self.surroundings.lidar
        share = min(LIDAR_POINTS, max(0, max_points // 4 // max(1, len(lidar))))
        rest = max_points - sum(min(share, len(points)) for points in lidar.values())
        scene = scene_from_prediction(
            self.inputs, self.targets, self.shown, self.keys, max_points=rest, seed=seed
        )
        views = list(scene.views)
        for v, points in lidar.items():
            T = views[v].T_ref_view_true
            if T is not None:
                sweep = lidar_cloud(points, T, share, seed)
                views[v] = replace(views[v], lidar=sweep)
        return replace(scene, views=tuple(views), boxes=self.surroundings.boxes)

    def cloud(self, max_points: int | None = None, seed: int = 0) -> ExportCloud:
        """The points that exports hold: those shown, or the true ones without a model."""
        kind: Kind = "truth" if self.shown is None else "predicted"
        return export_cloud(
            self.inputs, self.targets, self.shown, self.keys, kind, max_points=max_points, seed=seed
        )


def open_run(
    checkpoint: Path | None, config: Path | None, device: torch.device, overrides: Sequence[str] = ()
) -> tuple[Run | None, DictConfig]:
    """The trained run, if a checkpoint is given, and the config that describes the data.

    Args:
        checkpoint: a file or a run's folder; None to look at ground truth alone.
        config: a run's ``config.yaml``, or one of this project's configs (``configs/train.yaml``, to which
            ``overrides`` like ``machine=demo`` apply); None: the checkpoint's own.
        device: where the model goes.
        overrides: ``key=value`` changes of the config.

    Raises:
        ConfigError: neither is given, or the config is no config of a run.
        CheckpointError: see `load_run`.
    """
    if checkpoint is None and config is None:
        raise ConfigError(
            "give --checkpoint (predictions), or --config (ground truth alone, e.g. a run's config.yaml)"
        )
    run = None if checkpoint is None else load_run(checkpoint, device, () if config else overrides)
    if config is None:
        assert run is not None
        return run, run.config
    return run, _read_config(config, overrides)


def origin_of(run: Run | None) -> str:
    """What the points of a page come from, for its note."""
    return "ground truth" if run is None else f"{run.checkpoint}, step {run.step}"


def _read_config(path: Path, overrides: Sequence[str]) -> DictConfig:
    if not path.exists():
        raise ConfigError(f"--config {path}: no such file")
    if path.resolve().parent == CONFIG_DIR:
        return compose(path.stem, overrides)
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # OmegaConf passes on whatever its YAML parser raises
        raise ConfigError(
            f"--config {path}: not a readable config ({' '.join(str(error).split())})"
        ) from error
    if not (isinstance(config, DictConfig) and "dataset" in config and "machine" in config):
        raise ConfigError(f"--config {path}: holds no 'dataset' and 'machine'; expected a run's config.yaml")
    return overridden(config, overrides)


def open_dataset(config: DictConfig, split: str, sources: PointSources) -> CoopDataset:
    """The dataset of a split, its range from where ``sources.depth`` wants it.

    Synthetic data that the config describes are made where they are absent; nothing is augmented.

    Raises:
        ConfigError: no such split, paths do not exist, or the dataset cannot take depth from elsewhere.
    """
    if split not in SPLITS or split not in config.dataset:
        raise ConfigError(
            f"split={split} is not one of {', '.join(s for s in SPLITS if s in config.dataset)}"
        )
    config = without_augmentation(config, split)
    wanted = DEPTH_SOURCE_OF.get(sources.depth)
    if wanted is not None:
        if not has_key(config, "dataset.depth_source"):
            raise ConfigError(
                f"--point-depth-source {sources.depth}: the config has no dataset.depth_source to set to {wanted!r}"
            )
        OmegaConf.update(config, "dataset.depth_source", wanted)
    if config.machine.get("synthetic") is not None and not Path(config.machine.opv2v_images_root).exists():
        prepare_machine(config)
    require_paths(config, how="--override {key}=/path/to/it")
    return build(config, f"dataset.{split}")


def load_sample(dataset: CoopDataset, split: str, index: int) -> CoopBatch:
    """One collated sample.

    Raises:
        ValueError: there is none of this index.
        DataError: its files cannot be used.
    """
    if not 0 <= index < len(dataset):
        raise ValueError(f"--index {index} is outside the {len(dataset)} samples of {split}")
    sample = dataset[0, index]
    if isinstance(sample, BadSample):
        raise DataError(f"sample {index} of {split} cannot be read: {sample.reason}")
    batch = collate_coop([sample]).batch
    assert batch is not None, "a good sample collates to a batch"
    return batch


def inspect_sample(
    dataset: CoopDataset,
    split: str,
    index: int,
    run: Run | None,
    sources: PointSources | None = None,
    with_lidar: bool = True,
) -> Inspection:
    """One sample of a dataset: its truth, and with a run its prediction.

    Raises:
        ValueError: there is no such sample, or a source is not there.
        DataError: the sample's files cannot be used.
    """
    sources = sources if sources is not None else PointSources()
    batch = load_sample(dataset, split, index)
    if run is None and sources != PointSources():
        raise ValueError(f"{sources} changes a prediction, but there is no checkpoint to predict with")
    around = surroundings(dataset, batch.keys[0], batch.targets.vehicle.tolist(), with_lidar)
    predicted = None if run is None else predict(run, batch.inputs)
    reported = around.T_ref_view_reported
    T_input = None if reported is None else torch.from_numpy(reported).float()[None]
    shown = None if predicted is None else sources.apply(predicted, batch.targets, T_input)
    return Inspection(
        inputs=batch.inputs,
        targets=batch.targets,
        keys=batch.keys,
        predicted=predicted,
        shown=shown,
        sources=sources,
        surroundings=around,
    )


def predict(run: Run, inputs: ViewInputs) -> FactoredPrediction:
    """The prediction of the run's model, on the CPU."""
    device = next((p.device for p in run.model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        prediction: FactoredPrediction = run.model(inputs.to(device))
    return prediction.to("cpu")


def surroundings(
    dataset: Any, keys: Sequence[SampleKey], vehicle: Sequence[int], with_lidar: bool = True
) -> Surroundings:
    """LiDAR sweeps, boxes and poses of a sample's vehicles, as far as its dataset has files for them.

    What the files lack is left out, with a warning that names it.

    Args:
        dataset: a `CooperativeDataset`; others have no surroundings.
        keys: V keys, the reference first.
        vehicle: which vehicle each view belongs to; only the first view of each gets a sweep.
        with_lidar: also read the sweeps.
    """
    source = getattr(dataset, "source", None)
    if source is None:
        return Surroundings()
    wanted = set(keys)
    entries = {e.key: e for e in source.index.frames if e.key in wanted}
    views = [view for key in dict.fromkeys(keys) for view in source.load(entries[key])]
    T_world_view = [view.T_world_pano for view in views]
    T_world_rig = source.index.T_world_rig
    T_ref_world = np.asarray(invert_rigid(T_world_view[0]))
    around = Surroundings(
        T_world_ref=T_world_view[0],
        T_lidar_ref=np.asarray(invert_rigid(T_world_rig[keys[0]])) @ T_world_view[0],
    )
    if not all(isinstance(e, FrameEntry) for e in entries.values()):
        return around  # a cache: no YAML, no clouds
    T_rig_view = [
        np.asarray(invert_rigid(T_world_rig[k])) @ T for k, T in zip(keys, T_world_view, strict=True)
    ]
    lidar = {}
    if with_lidar:
        first = [vehicle.index(k) for k in dict.fromkeys(vehicle)]
        lidar = {v: cloud for v in first if (cloud := _sweep(entries[keys[v]], T_rig_view[v])) is not None}
    return replace(
        around,
        lidar=lidar,
        boxes=_boxes(entries.values(), T_ref_world),
        T_ref_view_reported=_reported(entries, keys, T_rig_view),
    )


def _sweep(entry: FrameEntry, T_rig_view: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """[N, 3] the vehicle's own sweep in its view's frame."""
    if entry.pcd_path is None:
        return None
    try:
        (sweep,) = load_sweeps(entry, (), np.eye(4))
    except DataError as error:
        log.warning("no LiDAR sweep: %s", error)
        return None
    T_view_rig = np.asarray(invert_rigid(T_rig_view))
    return transform_points(T_view_rig, sweep.points.astype(np.float64)).astype(np.float32)


def _boxes(entries: Iterable[FrameEntry], T_ref_world: NDArray[np.float64]) -> tuple[OrientedBox, ...]:
    """Every vehicle that any of the frames lists, once."""
    found: dict[str, VehicleBox] = {}
    for entry in entries:
        try:
            found = {**load_boxes(entry.yaml_path), **found}
        except DataError as error:
            log.warning("no boxes: %s", error)
    return tuple(
        OrientedBox(name=name, T_ref_box=T_ref_world @ box.T_world_box, half_extent_m=box.half_size_m)
        for name, box in sorted(found.items())
    )


def _reported(
    entries: dict[SampleKey, FrameEntry], keys: Sequence[SampleKey], T_rig_view: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """[V, 4, 4] poses in the reference's frame as the vehicles report them; None where one reports none."""
    try:
        T_world_view = [
            load_reported_pose(entries[key].yaml_path) @ T for key, T in zip(keys, T_rig_view, strict=True)
        ]
    except DataError as error:
        log.debug("no reported poses: %s", error)
        return None
    T_ref_world = np.asarray(invert_rigid(T_world_view[0]))
    return np.stack([T_ref_world @ T for T in T_world_view])
