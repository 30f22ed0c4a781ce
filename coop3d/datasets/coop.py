"""Cooperative samples: one instant, n vehicles, the reference first; what the network sees kept apart from truth."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coop3d.datasets.augment import Augmentation
from coop3d.datasets.entries import VehicleEntry
from coop3d.datasets.errors import DataError
from coop3d.datasets.sampling import AsListed, VehicleSampling
from coop3d.datasets.sources import ViewSource
from coop3d.geometry.transforms import invert_rigid
from coop3d.types import CoopBatch, Panorama, SampleKey, ViewInputs, ViewTargets


class CoopSample(NamedTuple):
    """One sample before collation: a batch of one."""

    batch: CoopBatch


class BadSample(NamedTuple):
    """A sample whose files could not be used; the trainer counts it and skips or stops."""

    keys: tuple[SampleKey, ...]
    reason: str


class Collated(NamedTuple):
    """What a data loader yields. ``batch`` is None when every sample of it was bad."""

    batch: CoopBatch | None
    bad: tuple[BadSample, ...]

    def pin_memory(self) -> Collated:
        """Called by DataLoader: page-locked memory for fast copies to a GPU."""
        return Collated(None if self.batch is None else self.batch.pin_memory(), self.bad)


class CooperativeDataset(Dataset):
    """Map-style dataset of instants with enough vehicles.

    Items are drawn with ``ds[(epoch, index)]``: which vehicles, their order and the augmentation depend only on
    (seed, epoch, index), never on the worker. ``ds[index]`` means epoch 0. One vehicle gives the single-vehicle
    dataset; a `PinholeViews` source gives the 4n-pinhole baseline.

    Args:
        source: where views come from.
        sampling: which vehicles join.
        augmentation: applied to each vehicle's views; None for validation and test.
        seed: of all draws.
        max_samples: keep this many instants, evenly spread over the split; None: all.

    Raises:
        DataError: no instant has enough vehicles within the distance limit.
    """

    def __init__(
        self,
        source: ViewSource[Any],
        sampling: VehicleSampling | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        max_samples: int | None = None,
    ) -> None:
        self.source = source
        self.sampling = sampling if sampling is not None else VehicleSampling()
        self.augmentation = augmentation
        self.seed = seed
        poses = source.index.T_world_rig
        groups = [self.sampling.candidates(i, poses) for i in source.index.instants]
        self._groups = [g for g in groups if g]
        self.unusable_instants = len(groups) - len(self._groups)
        if not self._groups:
            raise DataError(
                f"{source.location}: none of {len(groups)} instants has "
                f"{self.sampling.limits[0]} vehicles within {self.sampling.max_distance_m} m of reference "
                f"{self.sampling.reference!r}; lower sampling.vehicles or raise sampling.max_distance_m"
            )
        if max_samples is not None and max_samples < len(self._groups):
            keep = np.linspace(0, len(self._groups) - 1, max_samples).round().astype(int)
            self._groups = [self._groups[i] for i in keep]

    def listed(self, samples: Sequence[Sequence[SampleKey]]) -> CooperativeDataset:
        """The same source with exactly these samples: vehicles in the order given, reference first, not augmented.

        Raises:
            DataError: naming vehicles that the source's index does not have.
        """
        entries = {entry.key: entry for entry in self.source.index.frames}
        missing = [str(key) for keys in samples for key in keys if key not in entries]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(f"{self.source.location}: there is no usable {', '.join(missing[:5])}{more}")
        other = copy.copy(self)
        other.sampling, other.augmentation = AsListed(), None
        other._groups, other.unusable_instants = [[tuple(entries[k] for k in keys)] for keys in samples], 0
        return other

    def __len__(self) -> int:
        return len(self._groups)

    def num_views_of(self, epoch: int, index: int) -> int:
        """Number of views of a sample, without loading it (batches hold samples of equal view count)."""
        return len(self._plan(epoch, index)[0]) * self.source.views_per_vehicle

    def keys_of(self, epoch: int, index: int) -> tuple[SampleKey, ...]:
        """Vehicles of a sample, reference first, without loading it."""
        return tuple(entry.key for entry in self._plan(epoch, index)[0])

    def distance_of(self, epoch: int, index: int) -> float:
        """Metres from the reference to the farthest other vehicle of a sample, without loading it; 0 if alone."""
        poses = self.source.index.T_world_rig
        reference, *others = (poses[key][:3, 3] for key in self.keys_of(epoch, index))
        return max((float(np.linalg.norm(other - reference)) for other in others), default=0.0)

    def fingerprint(self) -> str:
        """Short hash of which files the samples come from; recorded with every run."""
        digest = hashlib.sha256()
        for groups in self._groups:
            for group in groups:
                digest.update("|".join(str(e.key) for e in group).encode())
        return digest.hexdigest()[:16]

    def _plan(self, epoch: int, index: int) -> tuple[tuple[VehicleEntry, ...], np.random.Generator]:
        rng = np.random.default_rng([self.seed, epoch, index])
        return self.sampling.draw(self._groups[index], rng), rng

    def __getitem__(self, request: int | tuple[int, int]) -> CoopSample | BadSample:
        epoch, index = request if isinstance(request, tuple) else (0, request)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)}")
        entries, rng = self._plan(epoch, index)
        try:
            vehicles = [self.source.load(entry) for entry in entries]
        except DataError as error:
            return BadSample(tuple(e.key for e in entries), str(error))
        if self.augmentation is not None:
            vehicles = self.augmentation.of_sample(vehicles, rng)
        return CoopSample(make_batch(vehicles))


def make_batch(vehicles: Sequence[tuple[Panorama, ...]]) -> CoopBatch:
    """A batch of one from the views of n vehicles, reference first (the first view of the first vehicle).

    A sample counts as synthetic (exact, dense range) when its masks are known nearly everywhere, the sky included:
    with LiDAR, or depth in whole metres, a pixel without range is unknown.
    """
    views = [view for group in vehicles for view in group]
    T_ref_world = invert_rigid(views[0].T_world_pano)  # float64 chain, cast once
    T_ref_view = np.stack([T_ref_world @ v.T_world_pano for v in views])
    T_ref_view[0] = np.eye(4)
    rays = _stack([v.camera.rays().astype(np.float32) for v in views])[None]  # inputs and targets share them
    origins = _stack([v.origin_map() for v in views])[None]
    is_synthetic = all(_is_dense(v) for v in views)
    inputs = ViewInputs(
        # contiguous while it is small: bytes are a quarter of floats
        image=_stack([v.rgb for v in views]).permute(0, 3, 1, 2).contiguous().float().div_(255.0)[None],
        rays=rays,
        origins=origins,
    )
    targets = ViewTargets(
        range_m=_stack([v.range_m for v in views])[None],
        rays=rays,
        origins=origins,
        covered=_stack([v.covered for v in views])[None],
        valid=_stack([v.valid for v in views])[None],
        non_ambiguous=_stack([v.non_ambiguous for v in views])[None],
        mask_known=_stack([v.mask_known for v in views])[None],
        source=_stack([v.source for v in views])[None],
        T_ref_view=torch.from_numpy(T_ref_view).float()[None],
        is_metric=torch.ones(1, dtype=torch.bool),
        is_synthetic=torch.tensor([is_synthetic]),
        vehicle=torch.tensor([i for i, group in enumerate(vehicles) for _ in group]),
    )
    return CoopBatch(
        inputs=inputs,
        targets=targets,
        keys=(tuple(v.key for v in views),),
        T_world_ref=views[0].T_world_pano[None],
    )


def _is_dense(view: Panorama) -> bool:
    without_surface = view.covered & ~view.non_ambiguous
    knows_sky = not without_surface.any() or view.mask_known[without_surface].mean() > 0.5
    return bool(view.valid.any() and view.mask_known.mean() > 0.5 and knows_sky)


def _stack(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def collate_coop(samples: Sequence[CoopSample | BadSample]) -> Collated:
    """Join samples of equal view count and image size; bad ones are set aside, not replaced."""
    bad = tuple(s for s in samples if isinstance(s, BadSample))
    good = [s.batch for s in samples if isinstance(s, CoopSample)]
    if not good:
        return Collated(None, bad)
    shapes = {b.inputs.shape for b in good}
    if len(shapes) > 1:
        raise ValueError(f"samples of one batch have different (1, views, height, width): {sorted(shapes)}")
    return Collated(_concat(good), bad)


def _concat(batches: list[CoopBatch]) -> CoopBatch:
    joined: dict[tuple[int, ...], Tensor] = {}  # what inputs and targets share stays shared

    def cat(tensors: list[Tensor]) -> Tensor:
        which = tuple(map(id, tensors))
        if which not in joined:  # one sample is a batch already: nothing to copy
            joined[which] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        return joined[which]

    def join(parts: list, shared: tuple[str, ...] = ()) -> dict[str, Tensor]:
        return {
            name: value if name in shared else cat([getattr(p, name) for p in parts])
            for name, value in vars(parts[0]).items()
        }

    worlds = [b.T_world_ref for b in batches if b.T_world_ref is not None]
    return CoopBatch(
        inputs=ViewInputs(**join([b.inputs for b in batches])),
        targets=ViewTargets(**join([b.targets for b in batches], shared=("vehicle",))),
        keys=tuple(key for b in batches for key in b.keys),
        T_world_ref=np.concatenate(worlds) if len(worlds) == len(batches) else None,
    )
