"""The samples of a case: the clean ones seen through a disturbance, earlier, or with other vehicles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coop3d.benchmark.robustness.catalogue import Case
from coop3d.benchmark.samples import Samples
from coop3d.conf import ConfigError
from coop3d.datasets import CooperativeDataset
from coop3d.datasets.disturb import DelayedDataset, DisturbedDataset, obstacle
from coop3d.training.sampler import fixed_batches
from coop3d.types import SampleKey


@dataclass(frozen=True)
class Variant:
    """What is scored for one case.

    Attributes:
        case: of the catalogue.
        samples: disturbed; None: nothing can be scored.
        left_out: reason to number of clean samples that have no counterpart.
        obstacle: why there is nothing, "" if there is.
    """

    case: Case
    samples: Samples | None
    left_out: Mapping[str, int] = field(default_factory=dict)
    obstacle: str = ""


def clean_dataset(samples: Samples) -> CooperativeDataset:
    """The dataset of the undisturbed samples.

    Raises:
        ConfigError: its samples cannot be paired with disturbed ones.
    """
    dataset = samples.dataset
    if not isinstance(dataset, CooperativeDataset) or dataset.augmentation is not None:
        raise ConfigError(
            f"robustness needs a CooperativeDataset without augmentation, found {type(dataset).__name__}; "
            "evaluate split=val or test, or give a contract."
        )
    return dataset


def variant(case: Case, samples: Samples, seed: int, batch: int) -> Variant:
    """The counterpart of the clean samples for one case that is not ``sight``."""
    clean = clean_dataset(samples)
    if case.family == "vehicles":
        return _with_vehicles(case, samples, clean, batch)
    if reason := obstacle(case.disturbance, clean):
        return Variant(case, None, obstacle=reason)
    if case.disturbance is not None:
        return Variant(case, replace(samples, dataset=DisturbedDataset(clean, case.disturbance, seed)))
    return _delayed(case, samples, DelayedDataset(clean, int(case.severity)))


def _delayed(case: Case, samples: Samples, dataset: DelayedDataset) -> Variant:
    left_out: Counter[str] = Counter()
    batches = []
    for requests in samples.batches:
        kept = []
        for request in requests:
            if len(dataset.keys_of(*request)) == 1:
                left_out["no other vehicle"] += 1
            elif not dataset.is_there(*request):
                left_out[f"no frame {case.severity:g} ms earlier of some other vehicle"] += 1
            else:
                kept.append(request)
        batches.append(tuple(kept))
    return _made(case, replace(samples, dataset=dataset, batches=tuple(b for b in batches if b)), left_out)


def _with_vehicles(case: Case, samples: Samples, clean: CooperativeDataset, batch: int) -> Variant:
    """The same references with so many vehicles: the sample's own first, then the nearest others in reach."""
    count, limit = int(case.severity), samples.contract.max_distance_m
    if not samples.is_given:
        limit = clean.sampling.max_distance_m
    index: Any = clean.source.index
    poses = index.T_world_rig
    there = {(i.scenario, i.frame): [e.key for e in i.entries] for i in index.instants}
    groups, left_out = [], Counter[str]()
    for request in sorted(r for requests in samples.batches for r in requests):
        keys = clean.keys_of(*request)
        at_once = there[keys[0].scenario, keys[0].frame]
        group = (*keys, *_nearest(keys, [k for k in at_once if k in poses], poses, limit))[:count]
        if len(group) == count:
            groups.append(group)
        else:
            reach = "" if limit is None else f" within {limit:g} m"
            left_out[f"fewer than {count} vehicles{reach}"] += 1
    if not groups:
        return Variant(case, None, left_out, _nothing(left_out))
    dataset = clean.listed(groups)
    batches = tuple(map(tuple, fixed_batches(dataset, None, batch)))
    return _made(case, replace(samples, dataset=dataset, batches=batches), left_out)


def _nearest(
    keys: tuple[SampleKey, ...], there: list[SampleKey], poses: Mapping[SampleKey, Any], limit: float | None
) -> list[SampleKey]:
    """Vehicles of an instant that are not among ``keys``, by distance to the first of these."""
    centre = poses[keys[0]][:3, 3]
    away = {k: float(np.linalg.norm(poses[k][:3, 3] - centre)) for k in there if k not in keys}
    return sorted((k for k, d in away.items() if limit is None or d <= limit), key=lambda k: away[k])


def _made(case: Case, samples: Samples, left_out: Mapping[str, int]) -> Variant:
    if not samples.batches:
        return Variant(case, None, left_out, _nothing(left_out))
    return Variant(case, samples, dict(left_out))


def _nothing(left_out: Mapping[str, int]) -> str:
    return "no sample: " + "; ".join(f"{reason} ({n})" for reason, n in left_out.items())
