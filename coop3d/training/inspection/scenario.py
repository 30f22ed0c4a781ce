"""All samples of one scenario, one after the other, as the scenario page and its video want them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from coop3d.datasets import DataError
from coop3d.training.data import CoopDataset
from coop3d.training.inspection.sample import inspect_sample, open_dataset, open_run, origin_of
from coop3d.training.run import Run
from coop3d.visualization import (
    ScenarioFrame,
    caption,
    preset,
    render_scene,
    write_scenario_html,
    write_video,
)
from coop3d.visualization.export.cloud import Kind
from coop3d.visualization.point_sources import PointSources

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ChosenScenario:
    """The frames of a scenario and where they come from."""

    name: str
    frames: tuple[ScenarioFrame, ...]
    left_out: int  # samples that could not be read
    note: str  # one line for a page
    kind: Kind  # of the points in a video
    max_points: int  # of all frames together

    def write_page(self, path: Path, fps: float) -> None:
        """Write the page with the slider, and log where it is."""
        write_scenario_html(path, self.name, self.frames, self.note, self.max_points, fps)
        log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)

    def write_video(self, path: Path, fps: float) -> None:
        """Write every frame from above and behind the reference, with which the viewpoint moves."""
        viewpoint = preset(self.frames[0].scene, "oblique")
        pictures = (
            caption(render_scene(frame.scene, viewpoint, self.kind), f"{self.name}  {frame.name}")
            for frame in self.frames
        )
        write_video(path, pictures, fps)
        log.info("wrote %s", path)


def choose_scenario(
    checkpoint: Path | None,
    config: Path | None,
    device: torch.device,
    overrides: Sequence[str] = (),
    *,
    split: str,
    scenario: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    max_points: int = 1_000_000,
    seed: int = 0,
) -> ChosenScenario:
    """Open a run or a config, and inspect the samples of one scenario; unusable ones are left out with a warning.

    Args:
        checkpoint, config, device, overrides: see `open_run`.
        split, scenario, stride, max_frames: which samples, see `scenario_samples`.
        max_points, seed: see `scenario_frames`.

    Raises:
        ValueError: there is no such scenario.
        DataError: none of its samples can be read.
        ConfigError, CheckpointError: see `open_run`.
    """
    run, opened = open_run(checkpoint, config, device, overrides)
    dataset = open_dataset(opened, split, PointSources())
    indices = scenario_samples(dataset, scenario, stride, max_frames)
    name = dataset.keys_of(0, indices[0])[0].scenario
    frames = tuple(scenario_frames(dataset, split, indices, run, max_points, seed))
    left_out = len(indices) - len(frames)
    if not frames:
        raise DataError(
            f"scenario {name}: none of its {left_out} samples can be read, see the warnings above"
        )
    note = f"{origin_of(run)}, {split}, {len(frames)} frames" + (
        f", {left_out} left out as unreadable" if left_out else ""
    )
    kind: Kind = "truth" if run is None else "predicted"
    return ChosenScenario(
        name=name, frames=frames, left_out=left_out, note=note, kind=kind, max_points=max_points
    )


def scenario_samples(
    dataset: CoopDataset, scenario: str | None = None, stride: int = 1, max_frames: int | None = None
) -> list[int]:
    """Indices of a scenario's samples in the order of time.

    Args:
        dataset: of one split.
        scenario: its name; None: the one with the most samples.
        stride: take every ``stride``-th.
        max_frames: at most so many, from the beginning; None: all.

    Raises:
        ValueError: there is no such scenario, or a number is below 1.
    """
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(f"stride is {stride} and max_frames {max_frames}, expected at least 1")
    found: dict[str, list[tuple[str, int]]] = {}
    for index in range(len(dataset)):
        reference = dataset.keys_of(0, index)[0]
        found.setdefault(reference.scenario, []).append((reference.frame, index))
    name = max(found, key=lambda k: len(found[k])) if scenario is None else scenario
    if name not in found:
        examples = ", ".join(sorted(found)[:5])
        raise ValueError(
            f"no sample of scenario {name!r}; this split has {len(found)} scenarios, e.g. {examples}"
        )
    return [index for _, index in sorted(found[name])][::stride][:max_frames]


def scenario_frames(
    dataset: CoopDataset, split: str, indices: list[int], run: Run | None, max_points: int, seed: int = 0
) -> Iterator[ScenarioFrame]:
    """The frames of `write_scenario_html`, each as soon as it is predicted; unusable ones are left out with a warning.

    Args:
        dataset, split, indices: which samples, e.g. from `scenario_samples`.
        run: predicts; None: ground truth alone.
        max_points: of all frames together.
        seed: of the subsampling.

    Raises:
        ValueError: the dataset does not say where the reference was.
    """
    for index in indices:
        try:
            inspection = inspect_sample(dataset, split, index, run, with_lidar=False)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        T_world_ref = inspection.surroundings.T_world_ref
        if T_world_ref is None:
            raise ValueError(
                f"sample {index} of {split}: its dataset holds no world poses to move the frames by"
            )
        scene = inspection.scene(max(max_points // len(indices), 1), seed)
        yield ScenarioFrame.lean(inspection.keys[0][0].frame, scene, T_world_ref)
