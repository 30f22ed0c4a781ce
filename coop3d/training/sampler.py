"""Which samples make up which optimiser step: a pure function of (seed, pass, dataset).

A *request* is ``(pass, index)``; a dataset answers it deterministically, so a stream of requests is a stream
of data. Everything here speaks of *global* batches. How one is cut over processes changes who does
the work, never what the step is made of.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from coop3d.conf import ConfigError
from coop3d.evaluation import BUCKETS, distance_bucket

Request = tuple[int, int]  # (pass over the dataset, index)


class SizedByViews(Protocol):
    """What a sampler needs of a dataset."""

    def __len__(self) -> int: ...

    def num_views_of(self, epoch: int, index: int) -> int:
        """Number of views of that request, without loading it."""
        ...


class DistanceWeights:
    """How often per pass samples are drawn, by the distance to their farthest vehicle.

    Args:
        weights: one number >= 0 for each of `coop3d.evaluation.BUCKETS`; 2.5 draws a sample two or three times.

    Raises:
        ConfigError: another number of weights, or a negative one.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if len(weights) != len(BUCKETS) or not all(0 <= weight < np.inf for weight in weights):
            raise ConfigError(
                f"train_params.distance_weights is {list(weights)}; expected {len(BUCKETS)} numbers >= 0, for "
                f"{', '.join(BUCKETS)}"
            )
        self.weights = dict(zip(BUCKETS, weights, strict=True))

    def copies(self, dataset: SizedByViews, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """[len(dataset)] how often each sample comes in this pass: its weight, rounded up or down at random."""
        distance_of = getattr(dataset, "distance_of", None)
        if distance_of is None:
            raise ConfigError(
                f"train_params.distance_weights needs a dataset that knows distances (distance_of), but the training "
                f"dataset is a {type(dataset).__name__}"
            )
        names = (distance_bucket(distance_of(epoch, index)) for index in range(len(dataset)))
        weight = np.array([self.weights[name] for name in names])
        return np.floor(weight + rng.random(len(weight))).astype(int)


@dataclass(frozen=True)
class SamplerState:
    """The next global batch to be consumed: pass over the dataset, then batch within that pass."""

    epoch: int = 0
    batch: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain container for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class BatchSplit:
    """How a global batch is cut: world_size processes x accumulation micro-batches x micro_batch samples."""

    global_batch: int
    world_size: int
    accumulation: int
    micro_batch: int

    @classmethod
    def plan(cls, global_batch: int, world_size: int, max_micro_batch: int) -> BatchSplit:
        """Largest micro-batch not above ``max_micro_batch`` that cuts the global batch evenly.

        Raises:
            ConfigError: if the global batch cannot be shared equally by ``world_size`` processes.
        """
        if global_batch % world_size:
            fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
            near = [m * world_size for m in (global_batch // world_size, global_batch // world_size + 1) if m]
            raise ConfigError(
                f"train_params.global_batch={global_batch} cannot be shared equally by {world_size} "
                f"processes. Use {', '.join(map(str, fits))} processes, "
                f"or train_params.global_batch={' or '.join(map(str, near))}."
            )
        share = global_batch // world_size
        micro = max(m for m in range(1, min(max_micro_batch, share) + 1) if share % m == 0)
        return cls(global_batch, world_size, share // micro, micro)

    def of_rank(self, requests: list[Request], rank: int) -> list[list[Request]]:
        """The micro-batches of one process, in order."""
        share = self.accumulation * self.micro_batch
        mine = requests[rank * share : (rank + 1) * share]
        return [mine[i : i + self.micro_batch] for i in range(0, share, self.micro_batch)]


class GlobalBatchSampler:
    """Infinite stream of global batches, shuffled anew each pass; all samples of a batch have equal views.

    Args:
        dataset: answers ``len`` and ``num_views_of``.
        global_batch: samples per optimiser step.
        seed: with the pass number, decides the order.
        pad_last: False drops what is left of each view count when a pass ends (other samples are left over in
            the next pass); True repeats samples of that view count to fill the batch.
        distance_weights: see `DistanceWeights`; empty: every sample once per pass.
    """

    def __init__(
        self,
        dataset: SizedByViews,
        global_batch: int,
        seed: int,
        pad_last: bool = False,
        distance_weights: Sequence[float] = (),
    ) -> None:
        if len(dataset) == 0:
            raise ConfigError("The training split holds no samples; check the dataset roots and filters.")
        self.dataset, self.global_batch, self.seed, self.pad_last = dataset, global_batch, seed, pad_last
        self._weights = DistanceWeights(distance_weights) if distance_weights else None
        self._plans: dict[int, list[list[Request]]] = {}

    def plan(self, epoch: int) -> list[list[Request]]:
        """All global batches of one pass, in order."""
        if epoch not in self._plans:
            self._plans = {e: p for e, p in self._plans.items() if abs(e - epoch) <= 1}
            self._plans[epoch] = self._make_plan(epoch)
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> list[list[Request]]:
        rng = np.random.default_rng((self.seed, epoch))
        by_views: dict[int, list[Request]] = defaultdict(list)
        indices = np.arange(len(self.dataset))
        if self._weights is not None:
            indices = np.repeat(indices, self._weights.copies(self.dataset, epoch, rng))
        for index in rng.permutation(indices).tolist():
            by_views[self.dataset.num_views_of(epoch, index)].append((epoch, index))
        batches = [b for views in sorted(by_views) for b in self._cut(by_views[views])]
        if not batches:
            counts = {views: len(requests) for views, requests in sorted(by_views.items())}
            raise ConfigError(
                f"No global batch of {self.global_batch} samples can be made: samples by number of views are "
                f"{counts}. Lower train_params.global_batch or set train_params.pad_last=true."
            )
        return [batches[i] for i in rng.permutation(len(batches)).tolist()]

    def _cut(self, requests: list[Request]) -> list[list[Request]]:
        size = self.global_batch
        batches = [requests[i : i + size] for i in range(0, len(requests), size)]
        if len(batches[-1]) < size:
            last = batches.pop()
            if self.pad_last:
                batches.append((last + requests * size)[:size])
        return batches

    def never_drawn(self) -> dict[int, int]:
        """View counts that pass 0 has no batch of, as dropping leaves them out; and their numbers of samples."""
        if self.pad_last:
            return {}
        counts = Counter(self.dataset.num_views_of(0, index) for index in range(len(self.dataset)))
        drawn = {self.dataset.num_views_of(*batch[0]) for batch in self.plan(0)}
        return {views: n for views, n in sorted(counts.items()) if views not in drawn}

    def requests(self, state: SamplerState) -> list[Request]:
        """The global batch at a position."""
        return self.plan(state.epoch)[state.batch]

    def within(self, state: SamplerState) -> SamplerState:
        """The position itself, or the start of the next pass if this pass has fewer batches now."""
        return state if state.batch < len(self.plan(state.epoch)) else SamplerState(state.epoch + 1, 0)

    def advance(self, state: SamplerState) -> SamplerState:
        """The position after that one."""
        if state.batch + 1 < len(self.plan(state.epoch)):
            return SamplerState(state.epoch, state.batch + 1)
        return SamplerState(state.epoch + 1, 0)

    def stream(self, state: SamplerState) -> Iterator[list[Request]]:
        """Global batches for ever, from a position on."""
        while True:
            yield self.requests(state)
            state = self.advance(state)


class RankStream:
    """The micro-batches of one process, endless: a ``batch_sampler`` for a DataLoader."""

    def __init__(
        self, sampler: GlobalBatchSampler, split: BatchSplit, rank: int, start: SamplerState
    ) -> None:
        self.sampler, self.split, self.rank, self.start = sampler, split, rank, start

    def __iter__(self) -> Iterator[list[Request]]:
        for requests in self.sampler.stream(self.start):
            yield from self.split.of_rank(requests, self.rank)


def fixed_batches(dataset: SizedByViews, limit: int | None, batch: int) -> list[list[Request]]:
    """The same evenly spread samples every time, in batches of equal views: for validation and evaluation.

    Requests are of pass 0. The union over batches does not depend on ``batch``.
    """
    total = len(dataset)
    count = total if limit is None else min(limit, total)
    by_views: dict[int, list[Request]] = defaultdict(list)
    for i in range(count):
        index = i * total // count
        by_views[dataset.num_views_of(0, index)].append((0, index))
    return [r[i : i + batch] for _, r in sorted(by_views.items()) for i in range(0, len(r), batch)]
