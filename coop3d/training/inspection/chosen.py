"""The sample that a command line asks for: of a split, or files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from coop3d.training.inspection.files import inspect_files
from coop3d.training.inspection.sample import Inspection, inspect_sample, open_dataset, open_run, origin_of
from coop3d.visualization.point_sources import PointSources


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A sample and where it comes from."""

    inspection: Inspection
    note: str  # one line for a page
    facts: dict[str, object]  # for a summary


def choose(
    checkpoint: Path | None,
    config: Path | None,
    device: torch.device,
    overrides: Sequence[str] = (),
    *,
    split: str,
    index: int,
    data: Sequence[Path] = (),
    sources: PointSources | None = None,
    with_lidar: bool = True,
) -> Chosen:
    """Open a run or a config, and inspect one sample.

    Args:
        checkpoint, config, device, overrides: see `open_run`.
        split, index: which sample; of ``data``, the index names the instant of a cache.
        data: files to predict for instead, see `inspect_files`.
        sources: what the points are made from; None: as predicted.
        with_lidar: also read the LiDAR sweeps.

    Raises:
        ValueError: there is no such sample, or what it needs is not there.
        ConfigError, CheckpointError: see `open_run`.
    """
    sources = sources if sources is not None else PointSources()
    if data and checkpoint is None:
        raise ValueError("--data has no ground truth to show: it needs a --checkpoint to predict with")
    run, opened = open_run(checkpoint, config, device, overrides)
    note = origin_of(run)
    facts: dict[str, object] = {
        "checkpoint": None if run is None else str(run.checkpoint),
        "step": None if run is None else run.step,
    }
    if data:
        assert run is not None
        if sources != PointSources():
            raise ValueError("--data has no ground truth: leave --point-*-source at pred")
        names = ", ".join(p.name for p in data)
        return Chosen(inspection=inspect_files(data, run, index), note=f"{note}, {names}", facts=facts)
    dataset = open_dataset(opened, split, sources)
    return Chosen(
        inspection=inspect_sample(dataset, split, index, run, sources, with_lidar=with_lidar),
        note=f"{note}, {split} sample {index}",
        facts={**facts, "split": split, "index": index},
    )
