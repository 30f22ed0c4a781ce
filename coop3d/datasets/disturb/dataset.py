"""Cooperative samples whose inputs are disturbed while every target is that of the undisturbed sample, bit for bit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.coop import BadSample, CooperativeDataset, CoopSample, make_batch
from coop3d.datasets.disturb.base import Disturbance, generator
from coop3d.datasets.disturb.colours import ColourCurves
from coop3d.datasets.entries import VehicleEntry
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import FrameEntry
from coop3d.datasets.opv2v.frame import read_image
from coop3d.datasets.sources import PinholeViews, StitchedPanoramas
from coop3d.stitching import panorama_frame
from coop3d.types import Panorama, RigFrame, SampleKey

TICK_MS = 50  # frame numbers of OPV2V count ticks of the simulator; every second one was kept

Views = tuple[Panorama, ...]


@dataclass(frozen=True)
class _Workshop:
    """How a source turns photographs into views."""

    load: Callable[[FrameEntry], RigFrame]
    views: Callable[[RigFrame, NDArray[np.float64] | None], Views]
    centre: str
    warps: bool  # colours are warped with depth

    def clean(self, frame: RigFrame) -> Views:
        """The views of an undisturbed frame."""
        return self.views(frame, None)

    def look(self, seen: RigFrame, true: RigFrame) -> Views:
        """The views for their colours and ray origins alone: depth is not sampled where these do not need it.

        They lie in the frame of the true rig, as the targets do, wherever the believed one has its centre.
        """
        if not self.warps:
            bare = tuple(replace(view, z_m=None) for view in seen.views)
            seen = replace(seen, views=bare, depth_is_dense=False, sweeps=())
        return self.views(seen, panorama_frame(true, self.centre))


def _workshop(source: Any) -> _Workshop | None:
    """None for sources that hold no photographs."""
    if isinstance(source, StitchedPanoramas):
        recipe = source.recipe
        return _Workshop(
            source.load_frame, lambda f, T: (source.stitch(f, T),), recipe.centre, recipe.kind == "central"
        )
    if isinstance(source, PinholeViews):
        return _Workshop(source.load_frame, source.views, source.centre, warps=False)
    return None


class _SeenOtherwise(CooperativeDataset):
    """The samples of ``clean``; the network sees what `_seen` says."""

    def __init__(self, clean: CooperativeDataset) -> None:
        if clean.augmentation is not None:
            raise ValueError("augmented samples cannot be paired with disturbed ones; use a dataset without")
        self.__dict__.update(clean.__dict__)

    def __getitem__(self, request: int | tuple[int, int]) -> CoopSample | BadSample:
        epoch, index = request if isinstance(request, tuple) else (0, request)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)}")
        entries = self._plan(epoch, index)[0]
        try:
            pairs = [self._pair(entry, is_reference=i == 0) for i, entry in enumerate(entries)]
        except DataError as error:
            return BadSample(tuple(e.key for e in entries), str(error))
        truth = make_batch([true for true, _ in pairs])
        return CoopSample(replace(truth, inputs=make_batch([seen for _, seen in pairs]).inputs))

    @abstractmethod
    def _pair(self, entry: VehicleEntry, *, is_reference: bool) -> tuple[Views, Views]:
        """(undisturbed views, what the network sees) of one vehicle."""


class DisturbedDataset(_SeenOtherwise):
    """The samples of another dataset with every vehicle disturbed.

    Args:
        clean: not augmented.
        disturbance: what is done.
        seed: of its randomness; with the vehicle and the instant it decides every draw.

    Raises:
        ValueError: the disturbance cannot be applied there, see `obstacle`.
    """

    def __init__(self, clean: CooperativeDataset, disturbance: Disturbance, seed: int = 0) -> None:
        super().__init__(clean)
        if reason := obstacle(disturbance, clean):
            raise ValueError(f"{disturbance.family}: {reason}")
        self.disturbance, self.disturbance_seed = disturbance, seed

    def _pair(self, entry: Any, *, is_reference: bool) -> tuple[Views, Views]:
        d = self.disturbance
        rng = generator(self.disturbance_seed, d.family, entry.key, per_vehicle=d.per_vehicle)
        workshop = _workshop(self.source)
        if workshop is None:
            assert isinstance(d, ColourCurves)
            views = self.source.load(entry)
            return views, tuple(d.on_panorama(view, rng) for view in views)
        frame = workshop.load(entry)
        return workshop.clean(frame), workshop.look(d(frame, rng), frame)


class DelayedDataset(_SeenOtherwise):
    """Other vehicles than the reference are seen as they were earlier; all targets are of the present.

    Args:
        clean: not augmented, of photographs.
        delay_ms: a multiple of 50; OPV2V keeps a frame every 100.

    Raises:
        ValueError: the dataset holds no photographs, or the delay is none.
    """

    def __init__(self, clean: CooperativeDataset, delay_ms: int = 100) -> None:
        super().__init__(clean)
        if reason := obstacle(None, clean):
            raise ValueError(f"sync: {reason}")
        if delay_ms < TICK_MS or delay_ms % TICK_MS:
            raise ValueError(f"delay is {delay_ms} ms, expected a positive multiple of {TICK_MS}")
        self.ticks = delay_ms // TICK_MS
        self._entries = {entry.key: entry for entry in self.source.index.frames}

    def earlier(self, key: SampleKey) -> FrameEntry | None:
        """The same vehicle's frame of that time ago, if there is one."""
        frame = f"{int(key.frame) - self.ticks:0{len(key.frame)}d}"
        return self._entries.get(key._replace(frame=frame))

    def is_there(self, epoch: int, index: int) -> bool:
        """Whether every other vehicle of a sample has an earlier frame."""
        return all(self.earlier(key) is not None for key in self.keys_of(epoch, index)[1:])

    def _pair(self, entry: Any, *, is_reference: bool) -> tuple[Views, Views]:
        workshop = _workshop(self.source)
        assert workshop is not None
        frame = workshop.load(entry)
        views = workshop.clean(frame)
        return views, views if is_reference else workshop.look(self._delayed(frame, entry), frame)

    def _delayed(self, frame: RigFrame, entry: FrameEntry) -> RigFrame:
        before = self.earlier(entry.key)
        if before is None or before.camera_names != entry.camera_names:
            raise DataError(
                f"{entry.key}: there is no frame of the same cameras {self.ticks * TICK_MS} ms earlier"
            )
        images = [read_image(path) for path in before.image_paths]
        if [i.shape for i in images] != [v.image.shape for v in frame.views]:
            raise DataError(f"{before.key}: its photographs are not of the size of {entry.key}'s")
        views = tuple(replace(view, image=i) for view, i in zip(frame.views, images, strict=True))
        return replace(frame, views=views)


def obstacle(disturbance: Disturbance | None, dataset: CooperativeDataset) -> str:
    """Why a disturbance (None: a delay) cannot be applied to the samples of a dataset; "" if it can."""
    if _workshop(dataset.source) is None and not isinstance(disturbance, ColourCurves):
        return (
            f"needs the photographs, but the dataset reads finished panoramas ({dataset.source.location}): stitch "
            "them anew with overrides=[dataset.panoramas=raw]"
        )
    source = dataset.source
    without_rig = isinstance(source, PinholeViews) and source.frame == "camera"
    if disturbance is not None and disturbance.needs_rig and without_rig:
        return "changes nothing: single photographs are seen in their own cameras' frames, without a rig"
    return ""
