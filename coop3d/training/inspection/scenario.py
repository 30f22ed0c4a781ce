"""All samples of one scenario, one after the other, as the scenario page and its video want them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from coop3d.datasets import DataError
from coop3d.training.data import CoopDataset
from coop3d.training.inspection.sample import inspect_sample
from coop3d.training.run import Run
from coop3d.visualization.scenario_page import ScenarioFrame

log = logging.getLogger(__name__)


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
