"""Which samples are scored: those of a contract, or those the run's config lists, written down as a contract."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from coop3d.benchmark.options import EvaluationOptions
from coop3d.conf import ConfigError, build, has_key, require_paths
from coop3d.datasets import CooperativeDataset, VehicleSampling
from coop3d.datasets.entries import FrameIndex
from coop3d.evaluation.contracts import (
    ContractError,
    ContractSample,
    FrameContract,
    draw_samples,
    load_contract,
)
from coop3d.training.data import BadRecord, CoopDataset
from coop3d.training.run import Run
from coop3d.training.sampler import Request, fixed_batches

log = logging.getLogger(__name__)

ON_MISSING = ("stop", "skip")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A dataset, which of its samples are scored in which batches, and the contract that names them."""

    dataset: CoopDataset
    contract: FrameContract
    batches: tuple[tuple[Request, ...], ...]
    is_given: bool  # the contract is a file; False: it was written down from the config
    left_out: tuple[BadRecord, ...] = ()  # of the contract, not on disk

    def name_of(self, request: Request) -> str:
        """The sample of a request, as the contract's samples print themselves."""
        return str(ContractSample.from_keys(self.dataset.keys_of(*request)))

    @property
    def mode(self) -> str:
        """``single vehicle``, ``single vehicle, pinholes``, ``cooperative panoramas`` or ``cooperative pinholes``."""
        source = getattr(self.dataset, "source", None)
        pinhole = getattr(source, "views_per_vehicle", 1) > 1
        if self.contract.vehicles[1] == 1:
            return "single vehicle, pinholes" if pinhole else "single vehicle"
        return "cooperative pinholes" if pinhole else "cooperative panoramas"


def choose_samples(run: Run, options: EvaluationOptions) -> Samples:
    """The samples that the options name, as this run sees them.

    Raises:
        ConfigError, ContractError: the options contradict each other, or samples are missing.
    """
    o = options
    if o.frames_json is not None:
        if o.max_samples is not None:
            raise ConfigError(
                f"max_samples={o.max_samples} is for samples that the config draws; a contract ({o.frames_json}) is "
                "scored whole. Leave out one of them."
            )
        return samples_of_contract(run, o.frames_json, o.vehicles, o.batch, o.on_missing)
    if o.vehicles is not None:
        raise ConfigError(
            "vehicles=N needs frames_json; without one, use overrides=[dataset.test.sampling...]."
        )
    return samples_of_config(run, o.split, o.max_samples, o.batch)


def samples_of_config(run: Run, split: str, limit: int | None, batch: int) -> Samples:
    """Evenly spread samples of a split as the run's config draws them."""
    dataset = run.dataset(split)
    batches = fixed_batches(dataset, limit, batch)
    requests = sorted(request for requests in batches for request in requests)
    node = run.config.dataset[split]
    on_disk = OmegaConf.select(node, "source.split") or split
    contract = FrameContract(
        name=f"{on_disk}-of-config",
        split=on_disk,
        samples=tuple(ContractSample.from_keys(dataset.keys_of(*request)) for request in requests),
    )
    return Samples(dataset=dataset, contract=contract, batches=tuple(map(tuple, batches)), is_given=False)


def samples_of_contract(
    run: Run, path: str | Path, vehicles: int | None, batch: int, on_missing: str = "stop"
) -> Samples:
    """Exactly the vehicles that a contract lists, in its order, seen as the run's config describes.

    Args:
        run: its ``dataset.test`` says what a view is and where files lie; the split is the contract's.
        path: of the contract.
        vehicles: take only the first so many vehicles of each sample (1: each reference alone).
        batch: samples per forward pass.
        on_missing: ``stop`` or ``skip`` where the data lack frames of the contract.

    Raises:
        ContractError: frames are missing, or none is left.
    """
    if on_missing not in ON_MISSING:
        raise ConfigError(f"on_missing={on_missing} is not one of {', '.join(ON_MISSING)}.")
    contract = load_contract(path)
    if vehicles is not None:
        contract = contract.first_vehicles(vehicles)
    source = _source(run, contract.split)
    missing = missing_samples(contract, source.index)
    if missing and on_missing == "stop":
        raise ContractError(_missing_message(path, contract, missing, source.location))
    left_out = tuple(BadRecord(str(s), "is not on disk") for s in missing)
    for record in left_out:
        log.warning("Left out: %s of %s is not on disk.", record.key, contract.name)
    there = [s for s in contract.samples if s not in set(missing)]
    if not there:
        raise ContractError(f"{path}: none of {len(contract.samples)} samples is under {source.location}")
    dataset = CooperativeDataset(source, VehicleSampling(vehicles=1)).listed([s.keys for s in there])
    batches = tuple(map(tuple, fixed_batches(dataset, None, batch)))
    return Samples(dataset=dataset, contract=contract, batches=batches, is_given=True, left_out=left_out)


def _source(run: Run, split: str) -> Any:
    """The view source of ``dataset.test`` of a run's config, for another split."""
    config = run.config.copy()
    key = "dataset.test.source"
    if not has_key(config, f"{key}.split"):
        raise ConfigError(f"{run.checkpoint}: its config has no {key}.split; frames_json needs one.")
    OmegaConf.update(config, f"{key}.split", split)
    require_paths(config, how="'overrides=[{key}=/path/to/it]'")
    return build(config, key)


def missing_samples(contract: FrameContract, index: FrameIndex[Any]) -> list[ContractSample]:
    """Samples of which some vehicle has no usable frame."""
    there = index.T_world_rig.keys()  # of the frames listed, those whose pose can be read
    return [sample for sample in contract.samples if not there >= set(sample.keys)]


def _missing_message(
    path: str | Path, contract: FrameContract, missing: Sequence[ContractSample], location: str
) -> str:
    some = "\n".join(f"  {sample}" for sample in missing[:10])
    more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"{path}: {len(missing)} of {len(contract.samples)} samples are not (completely) under {location}:\n{some}"
        f"{more}\nSet the data roots with overrides=[machine.opv2v_images_root=...], or leave them out and have them "
        "counted with on_missing=skip."
    )


def make_contract(
    index: FrameIndex[Any],
    name: str,
    sampling: VehicleSampling,
    count: int | None = None,
    seed: int = 0,
) -> FrameContract:
    """Draw a contract from the frames of a split, evenly over distances and scenarios.

    Args:
        index: of the split.
        name: of the contract.
        sampling: pair policy, number of vehicles and distance limit; the reference is the ``first`` that has
            enough partners.
        count: samples; None: every usable instant.
        seed: of the draw, and of the number of vehicles where that varies.

    Raises:
        ContractError: nothing is usable, or the sampling's partners are random.
    """
    if sampling.pair_policy == "random" or sampling.reference == "random" or sampling.shuffle_others:
        raise ContractError("a contract needs pair_policy first or nearest and a fixed reference")
    candidates = list(_candidates(index, sampling, seed))
    if not candidates:
        raise ContractError(
            f"split {index.split}: no instant has {sampling.limits[0]} vehicles within {sampling.max_distance_m} m"
        )
    return FrameContract(
        name=name,
        split=index.split,
        samples=draw_samples(candidates, count, seed),
        pair_policy=sampling.pair_policy,
        max_distance_m=sampling.max_distance_m,
        seed=seed,
    )


def _candidates(index: FrameIndex[Any], sampling: VehicleSampling, seed: int) -> Iterator[ContractSample]:
    poses = index.T_world_rig
    for i, instant in enumerate(index.instants):
        groups = sampling.candidates(instant, poses)
        if not groups:
            continue
        keys = [entry.key for entry in sampling.draw(groups, np.random.default_rng([seed, i]))]
        away = [float(np.linalg.norm(poses[k][:3, 3] - poses[keys[0]][:3, 3])) for k in keys[1:]]
        yield ContractSample.from_keys(keys, round(max(away), 2) if away else None)
