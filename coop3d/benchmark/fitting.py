"""What baselines learn from the training split."""

from __future__ import annotations

import torch

from coop3d.datasets import collate_coop
from coop3d.evaluation import TrainingStatistics
from coop3d.progress import progress
from coop3d.training.data import draw, make_loader
from coop3d.training.run import Run
from coop3d.training.sampler import fixed_batches


def training_statistics(run: Run, samples: int, num_workers: int, show: bool = True) -> TrainingStatistics:
    """Statistics of evenly spread training samples as they were recorded, the same on every process.

    Augmentation would turn every panorama by chance: a mean displacement of random headings knows no direction.
    """
    statistics, dataset = TrainingStatistics(), run.dataset("train")
    requests = fixed_batches(dataset, samples, batch=1)
    stream = iter(make_loader(dataset, requests, collate_coop, num_workers, 2, torch.device("cpu")))
    for wanted in progress(requests, desc="fitting baselines", disable=not show):
        batch = draw(stream, dataset, wanted).batch
        if batch is not None:
            statistics.update(batch.targets)
    return statistics
