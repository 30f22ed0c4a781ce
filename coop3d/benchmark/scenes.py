"""Point-cloud pages of the worst and the best samples of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from coop3d.benchmark.entrants import Blind, ask
from coop3d.benchmark.report import RankedSample, scored_samples
from coop3d.benchmark.results import EntrantResult
from coop3d.benchmark.runner import Autocast
from coop3d.benchmark.samples import Samples
from coop3d.datasets import BadSample, collate_coop
from coop3d.evaluation.contracts import ContractSample
from coop3d.visualization import scene_from_prediction, write_scene_html

MAX_POINTS = 120_000  # per page


def extremes(entrant: EntrantResult, count: int) -> list[RankedSample]:
    """The ``count`` worst and the ``count`` best samples that are scored, each once."""
    ranked = scored_samples(entrant)
    chosen = [*ranked[:count], *ranked[-count:]] if count else []
    return list({s.page: s for s in chosen}.values())


@torch.inference_mode()
def write_scenes(
    folder: Path,
    chosen: Sequence[RankedSample],
    model: Blind,
    samples: Samples,
    device: torch.device,
    autocast: Autocast,
) -> list[Path]:
    """Predict the chosen samples again and write their pages under ``folder/scenes``."""
    requests = {samples.name_of(request): request for batch in samples.batches for request in batch}
    paths = []
    for sample in chosen:
        name = str(ContractSample(scenario=sample.scenario, frame=sample.frame, agents=sample.agents))
        loaded = samples.dataset[requests[name]]
        if isinstance(loaded, BadSample):
            continue  # it could be read a moment ago; the report links what is there
        batch = collate_coop([loaded]).batch
        assert batch is not None, "a good sample collates to a batch"
        with autocast():
            prediction = ask(model, batch.to(device)).prediction.to("cpu")
        scene = scene_from_prediction(
            batch.inputs, batch.targets, prediction, batch.keys, max_points=MAX_POINTS
        )
        numbers: dict[str, object] = {
            "translation error [m]": {r.agent: r.translation_error_m for r in sample.rows},
            "rotation error [deg]": {r.agent: r.rotation_error_deg for r in sample.rows},
            "AbsRel": {r.agent: r.abs_rel for r in sample.rows},
            "scale off by": {r.agent: r.scale_error for r in sample.rows},
        }
        paths.append(write_scene_html(folder / sample.page, scene, numbers, f"{model.name}, {name}"))
    return paths
