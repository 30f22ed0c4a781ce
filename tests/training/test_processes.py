"""Several gloo processes, replicated and sharded, against one at equal global batch; no deadlock on empty shares."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.processes import run_ranks
from support.toy_run import ALONE, ToyDataset, ToyModel, make_trainer
from torch import nn

from coop3d.conf import DistributedConf, Optimizer, Strategy
from coop3d.losses import DistillationTerm, MetricRangeTerm, WeightedSum
from coop3d.training.checkpoint import LAST, CheckpointWriteError, load_checkpoint
from coop3d.training.data import BadSamplesError
from coop3d.training.distributed import PeerError, Processes, processes
from coop3d.training.trainer import Outcome, Trainer
from coop3d.types import FactoredPrediction, ViewInputs

# Differences come from the order of float32 sums only.
TOLERANCE = {"rel": 1e-5, "abs": 1e-7}


class PartlyBad(ToyDataset):
    """Many bad samples, so that shares of a batch are unequal or empty."""

    def __init__(self) -> None:
        super().__init__(24, bad=tuple(i for i in range(24) if i % 5 in (1, 2)))


class OftenUnused(ToyModel):
    """Some weights move bright samples only: often no micro-batch, no process or not the last pass uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Linear(3, 3)

    def forward(self, inputs: ViewInputs) -> FactoredPrediction:
        prediction = super().forward(inputs)
        bright = inputs.image.mean(dim=(1, 2, 3, 4)) > 0.515
        if not bright.any():
            return prediction
        moved = bright[:, None, None] * self.bright(inputs.image.mean(dim=(3, 4)))
        return replace(prediction, trans=prediction.trans + moved)


DATASETS = {"good": ToyDataset, "partly_bad": PartlyBad, "all_bad": lambda: ToyDataset(bad=tuple(range(24)))}
CHANGES = {"max_bad_samples": 20, "epochs": 4, "ema_decay": 0.9}
MUON = {"optimizer": Optimizer.muon}


@dataclass(frozen=True)
class Job:
    """One training run of several processes."""

    run_dir: Path
    dataset: str = "good"
    sharded: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    sigterm_at: tuple[int, int] | None = None  # a request in the share of one process
    error: type[Exception] | None = None
    full_disk: bool = False
    teacher: bool = False
    often_unused: bool = False


def _work(_: int, jobs: list[Job]) -> None:
    with processes(DistributedConf(strategy=Strategy.ddp, device="cpu", timeout_minutes=1)) as me:
        for job in jobs:
            _run(job, replace(me, sharded=job.sharded, find_unused_parameters=job.often_unused))


def _run(job: Job, me: Processes) -> None:
    dataset = DATASETS[job.dataset]()
    dataset.sigterm_at = job.sigterm_at
    make = make_student if job.teacher else make_often_unused if job.often_unused else make_trainer
    trainer = make(job.run_dir, dataset, processes=me, **{**CHANGES, **job.changes})
    if job.full_disk:
        trainer.store.save = full_disk
    if job.error is not None:
        with pytest.raises(PeerError if job.full_disk and not me.is_main else job.error):
            trainer.fit()
        return
    assert trainer.fit() is (Outcome.finished if job.sigterm_at is None else Outcome.stopped)


def make_student(*arguments: Any, processes: Processes = ALONE, **changes: Any) -> Trainer:
    """A trainer whose loss listens to a teacher with other weights."""
    plain = make_trainer(*arguments, **changes)
    torch.manual_seed(99)
    loss = WeightedSum({"range": MetricRangeTerm(), "pose": DistillationTerm()})
    task = replace(plain.task, model=ToyModel(), teacher=ToyModel(), loss_function=loss)
    return Trainer(task, plain.params, plain.loader, processes, plain.run_dir, plain.config)


def make_often_unused(*arguments: Any, processes: Processes = ALONE, **changes: Any) -> Trainer:
    """A trainer of `OftenUnused`."""
    plain = make_trainer(*arguments, **changes)
    torch.manual_seed(0)
    task = replace(plain.task, model=OftenUnused())
    return Trainer(task, plain.params, plain.loader, processes, plain.run_dir, plain.config)


def full_disk(*_: Any) -> None:
    raise CheckpointWriteError("checkpoint-last.pth: could not be written (No space left on device)")


def train(world_size: int, *jobs: Job) -> None:
    """Run jobs one after another in the same processes."""
    run_ranks(_work, list(jobs), world_size=world_size)


def series(run_dir: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    train = [
        [r["loss"], r["loss/range"], r["loss/pose"], r["grad_norm"]] for r in lines if r["kind"] == "train"
    ]
    return train + [[r["loss"], r["range/abs_rel"]] for r in lines if r["kind"] == "val"]


def assert_same(a: Path, b: Path) -> None:
    for x, y in zip(series(a), series(b), strict=True):
        assert x == pytest.approx(y, **TOLERANCE)
    first, second = load_checkpoint(a / LAST), load_checkpoint(b / LAST)
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        for name in first[part]:
            torch.testing.assert_close(first[part][name], second[part][name], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Runs of one process to compare with."""
    folder = tmp_path_factory.mktemp("alone")
    for dataset in ("good", "partly_bad"):
        make_trainer(folder / dataset, DATASETS[dataset](), **CHANGES).fit()
        make_often_unused(folder / f"unused_{dataset}", DATASETS[dataset](), **CHANGES).fit()
    make_student(folder / "taught", DATASETS["partly_bad"](), **CHANGES).fit()
    make_trainer(folder / "muon", DATASETS["partly_bad"](), **CHANGES, **MUON).fit()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Runs of two processes, several in one start."""
    folder = tmp_path_factory.mktemp("two")
    single = {"max_micro_batch": 1}
    everything = tuple(
        Job(folder / f"{'fsdp' if sharded else 'ddp'}_{dataset}", dataset, sharded, single)
        for sharded in (False, True)
        for dataset in ("good", "partly_bad")
    )
    train(
        2,
        *everything,
        *(Job(folder / f"{k}_taught", "partly_bad", k == "fsdp", single, teacher=True) for k in KINDS),
        *(Job(folder / f"{k}_muon", "partly_bad", k == "fsdp", {**single, **MUON}) for k in KINDS),
        *(Job(folder / f"unused_{d}", d, changes=single, often_unused=True) for d in ("good", "partly_bad")),
        Job(folder / "all_bad", "all_bad", error=BadSamplesError),
        Job(folder / "full_disk", full_disk=True, error=CheckpointWriteError),
        *(Job(folder / f"stopped_{name}", sharded=name == "fsdp", sigterm_at=(0, 13)) for name in KINDS),
        Job(folder / "stopped_muon", "partly_bad", sharded=True, sigterm_at=(0, 13), changes=MUON),
    )
    return folder


KINDS = ("ddp", "fsdp")


@pytest.mark.parametrize("dataset", ["good", "partly_bad", "taught", "muon"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(alone, two, kind, dataset):
    """Also with micro-batches of one, and with shares of which some hold no good sample at all."""
    assert_same(alone / dataset, two / f"{kind}_{dataset}")


@pytest.mark.parametrize("dataset", ["good", "partly_bad"])
def test_weights_that_nobody_uses_in_a_step_are_left_alone_as_by_one_process(alone, two, dataset):
    assert_same(alone / f"unused_{dataset}", two / f"unused_{dataset}")


def test_four_processes_equal_one_and_each_kind_resumes_the_other(alone, two, tmp_path):
    """Two replicated processes stop, four sharded ones go on; and the other way round."""
    for name in KINDS:
        assert 0 < load_checkpoint(two / f"stopped_{name}" / LAST)["step"] < 16
        shutil.copytree(two / f"stopped_{name}", tmp_path / f"stopped_{name}")
    train(
        4,
        *(Job(tmp_path / name, sharded=name == "fsdp") for name in KINDS),
        *(Job(tmp_path / f"stopped_{name}", sharded=name == "ddp") for name in KINDS),
    )
    for folder in ("ddp", "fsdp", "stopped_ddp", "stopped_fsdp"):
        assert_same(alone / "good", tmp_path / folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_processes_equal_one(tmp_path, kind):
    changes = {"global_batch": 10, "pad_last": True, "max_micro_batch": 10}
    make_trainer(tmp_path / "one", **{**CHANGES, **changes}).fit()
    train(10, Job(tmp_path / "ten", sharded=kind == "fsdp", changes=changes))
    assert_same(tmp_path / "one", tmp_path / "ten")


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_resumes_what_two_left(alone, two, tmp_path, kind):
    shutil.copytree(two / f"stopped_{kind}", tmp_path / "run")
    make_trainer(tmp_path / "run", **CHANGES).fit()
    assert_same(alone / "good", tmp_path / "run")


def test_one_process_resumes_the_muon_of_two_that_were_sharded(alone, two, tmp_path):
    shutil.copytree(two / "stopped_muon", tmp_path / "run")
    make_trainer(tmp_path / "run", DATASETS["partly_bad"](), **CHANGES, **MUON).fit()
    assert_same(alone / "muon", tmp_path / "run")


def test_shares_of_the_partly_bad_dataset_are_sometimes_empty(tmp_path):
    """Guards the test above: the slow path is really taken, and not in every step."""
    trainer = make_trainer(tmp_path, PartlyBad(), **CHANGES)
    bad, stream = trainer.task.train.bad, trainer.sampler.stream(trainer.position)
    shares = [
        [all(i in bad for _, i in b[k : k + 2]) for k in (0, 2)] for b in (next(stream) for _ in range(16))
    ]
    assert any(sum(s) == 1 for s in shares)
    assert any(sum(s) == 0 for s in shares)


def test_errors_of_one_process_end_all(two):
    """The assertions are in the processes; what they left tells that the jobs were run."""
    assert not (two / "all_bad" / LAST).exists()
    assert not (two / "full_disk" / LAST).exists()
    assert (two / "full_disk" / "log.jsonl").exists()


@pytest.mark.parametrize(("device", "ends"), [("cpu", 1), ("cuda", 0)])
def test_after_an_error_nobody_waits_for_the_others(monkeypatch, device, ends):
    """NCCL's communicators end together: a process that failed alone would wait for all others, and they for it."""
    calls = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("coop3d.training.distributed._device", lambda _: torch.device(device, 0))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: calls.append("end"))
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        processes(DistributedConf(strategy=Strategy.ddp)),
    ):
        raise RuntimeError("out of memory")
    assert len(calls) == ends
    with processes(DistributedConf(strategy=Strategy.ddp)):
        pass
    assert len(calls) == ends + 1
