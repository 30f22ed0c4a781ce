"""What a step is made of: coverage, equal view counts, independence of the number of processes, positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop3d.training.sampler import BatchSplit, GlobalBatchSampler, RankStream, SamplerState, fixed_batches


class Sizes:
    """A dataset that only knows its view counts, which may change with the pass."""

    def __init__(self, views: list[int]) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def num_views_of(self, epoch: int, index: int) -> int:
        return self.views[(index + epoch) % len(self.views)]


sizes = st.lists(st.integers(1, 4), min_size=8, max_size=60).map(Sizes)


@given(sizes, st.integers(1, 6), st.integers(0, 5))
def test_dropping_draws_each_sample_at_most_once_and_leaves_less_than_a_batch_per_view_count(
    data, batch, epoch
):
    sampler = GlobalBatchSampler(data, batch, seed=3)
    if all(data.views.count(views) < batch for views in data.views):
        with pytest.raises(ValueError, match="No global batch"):
            sampler.plan(epoch)
        return
    plan = sampler.plan(epoch)
    drawn = [request for b in plan for request in b]
    assert len(set(drawn)) == len(drawn)
    assert all(len(b) == batch for b in plan)
    for views in set(data.views):
        total = data.views.count(views)
        assert sum(data.num_views_of(*r) == views for r in drawn) == total // batch * batch


@given(sizes, st.integers(1, 6))
def test_padding_covers_every_sample_with_full_batches(data, batch):
    plan = GlobalBatchSampler(data, batch, seed=3, pad_last=True).plan(0)
    assert {r for b in plan for r in b} == {(0, i) for i in range(len(data))}
    assert all(len(b) == batch for b in plan)


@given(sizes)
def test_samples_of_a_global_batch_have_equal_view_counts(data):
    for batch in GlobalBatchSampler(data, 3, seed=0, pad_last=True).plan(1):
        assert len({data.num_views_of(*r) for r in batch}) == 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_do_the_same_global_batches(world_size):
    data, steps = Sizes([2, 3] * 20), 13
    sampler = GlobalBatchSampler(data, 8, seed=5, pad_last=True)
    split = BatchSplit.plan(8, world_size, max_micro_batch=2)
    streams = [iter(RankStream(sampler, split, rank, SamplerState())) for rank in range(world_size)]
    expected = sampler.stream(SamplerState())
    for _ in range(steps):
        parts = [[next(s) for _ in range(split.accumulation)] for s in streams]
        assert [r for rank in parts for micro in rank for r in micro] == next(expected)


def test_stream_goes_on_from_any_position():
    sampler = GlobalBatchSampler(Sizes([2] * 10 + [3] * 7), 4, seed=1)
    whole = sampler.stream(SamplerState())
    state = SamplerState()
    for _ in range(9):  # more than two passes of three batches
        next(whole)
        state = sampler.advance(state)
    assert state == SamplerState(3, 0)
    fresh = GlobalBatchSampler(Sizes([2] * 10 + [3] * 7), 4, seed=1).stream(state)
    assert [next(fresh) for _ in range(5)] == [next(whole) for _ in range(5)]


def test_passes_and_seeds_differ():
    data = Sizes([2] * 40)
    orders = {
        str([[i for _, i in b] for b in GlobalBatchSampler(data, 4, seed).plan(epoch)])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_batch_split_says_what_fits():
    assert BatchSplit.plan(40, 10, 1) == BatchSplit(40, 10, 4, 1)
    assert BatchSplit.plan(12, 2, 4) == BatchSplit(12, 2, 2, 3)  # share 6: micro-batches of 3, not 4
    with pytest.raises(
        ValueError, match=r"global_batch=10 .* 4 processes.*1, 2, 5, 10 .*global_batch=8 or 12"
    ):
        BatchSplit.plan(10, 4, 1)


def test_no_full_batch_is_an_error_not_an_endless_loop():
    with pytest.raises(ValueError, match=r"\{2: 3, 3: 2\}.*pad_last=true"):
        GlobalBatchSampler(Sizes([2, 2, 2, 3, 3]), 4, seed=0).plan(0)
    with pytest.raises(ValueError, match="no samples"):
        GlobalBatchSampler(Sizes([]), 4, seed=0)


def test_view_counts_that_are_never_drawn_are_reported():
    assert GlobalBatchSampler(Sizes([2] * 9 + [5] * 3), 4, seed=0).never_drawn() == {5: 3}
    assert GlobalBatchSampler(Sizes([2] * 9 + [5] * 3), 4, seed=0, pad_last=True).never_drawn() == {}


def test_view_counts_that_weights_draw_often_enough_are_not_reported():
    sampler = GlobalBatchSampler(AtDistances([5.0] * 3), 4, seed=0, distance_weights=[2.0] * 5)
    assert len(sampler.plan(0)) == 1
    assert sampler.never_drawn() == {}


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_fixed_batches_are_the_same_samples_whatever_the_batch(batch):
    batches = fixed_batches(Sizes([2, 3, 2, 2, 4] * 5), limit=7, batch=batch)
    assert sorted(i for b in batches for _, i in b) == [0, 3, 7, 10, 14, 17, 21]


class AtDistances:
    """Sample k has its farthest vehicle ``metres[k]`` away."""

    def __init__(self, metres):
        self.metres = metres

    def __len__(self):
        return len(self.metres)

    def num_views_of(self, epoch, index):
        return 2

    def distance_of(self, epoch, index):
        return self.metres[index]


def drawn(sampler, epoch):
    return np.bincount(
        [index for batch in sampler.plan(epoch) for _, index in batch], minlength=len(sampler.dataset)
    )


def test_distance_weights_draw_buckets_more_or_less_often():
    dataset = AtDistances([5.0] * 40 + [20.0] * 40 + [45.0] * 40)
    sampler = GlobalBatchSampler(dataset, 4, 0, True, [0.0, 1.0, 2.5, 1.0, 1.0])
    passes = sum(drawn(sampler, epoch) for epoch in range(20)) / 20
    assert passes[:40].max() == 0
    assert passes[40:80].mean() == pytest.approx(1.0, abs=0.02)
    assert passes[80:].mean() == pytest.approx(2.5, abs=0.1)
    assert sampler.plan(3) == GlobalBatchSampler(dataset, 4, 0, True, [0.0, 1.0, 2.5, 1.0, 1.0]).plan(3)


def test_no_weights_draw_every_sample_once():
    dataset = AtDistances([5.0, 20.0, 45.0, 200.0])
    assert drawn(GlobalBatchSampler(dataset, 2, 0, distance_weights=[]), 0).tolist() == [1, 1, 1, 1]
    assert GlobalBatchSampler(dataset, 2, 0, distance_weights=[]).plan(0) == GlobalBatchSampler(
        dataset, 2, 0
    ).plan(0)


def test_wrong_distance_weights_are_named():
    with pytest.raises(
        ValueError, match=r"distance_weights is \[1.0\]; expected 5 numbers >= 0, for 0-15m, 15-30m"
    ):
        GlobalBatchSampler(AtDistances([1.0]), 1, 0, distance_weights=[1.0])
    with pytest.raises(ValueError, match="knows distances"):
        GlobalBatchSampler(range(3), 1, 0, distance_weights=[2.0, 1, 1, 1, 1]).plan(0)  # type: ignore[arg-type]
