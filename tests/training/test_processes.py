"""Two gloo processes against one at equal global batch; unequal and empty shares without deadlock."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from support.toy_run import ToyDataset, make_trainer

from coop3d.conf import DistributedConf, Strategy
from coop3d.training.checkpoint import LAST, load_checkpoint
from coop3d.training.data import BadSamplesError
from coop3d.training.distributed import processes
from coop3d.training.trainer import Outcome

# Differences come from the order of float32 sums only.
TOLERANCE = {"rel": 1e-5, "abs": 1e-7}


class PartlyBad(ToyDataset):
    """Many bad samples, so that shares of a batch are unequal or empty."""

    def __init__(self) -> None:
        super().__init__(24, bad=tuple(i for i in range(24) if i % 5 in (1, 2)))


DATASETS = {"good": ToyDataset, "partly_bad": PartlyBad, "all_bad": lambda: ToyDataset(bad=tuple(range(24)))}
CHANGES = {"max_bad_samples": 20, "epochs": 4}


def _work(rank: int, world_size: int, port: int, run_dir: str, dataset: str, changes: dict) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    with processes(DistributedConf(strategy=Strategy.ddp, device="cpu", timeout_minutes=1)) as me:
        if dataset == "all_bad":
            with pytest.raises(BadSamplesError):
                make_trainer(Path(run_dir), DATASETS[dataset](), processes=me, **changes).fit()
            return
        if dataset == "sigterm":
            data = ToyDataset()
            data.sigterm_at = (0, 13)  # lies in the share of one process
            assert make_trainer(Path(run_dir), data, processes=me, **changes).fit() is Outcome.stopped
            return
        trainer = make_trainer(Path(run_dir), DATASETS[dataset](), processes=me, **changes)
        assert trainer.fit() is Outcome.finished


def train_with_two(run_dir: Path, dataset: str, **changes) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (2, port, str(run_dir), dataset, {**CHANGES, **changes})
    torch.multiprocessing.start_processes(_work, arguments, nprocs=2, start_method="spawn")


def series(run_dir: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    train = [
        [r["loss"], r["loss/range"], r["loss/pose"], r["grad_norm"]] for r in lines if r["kind"] == "train"
    ]
    return train + [[r["loss"], r["range/abs_rel"]] for r in lines if r["kind"] == "val"]


def assert_same(a: Path, b: Path) -> None:
    for x, y in zip(series(a), series(b), strict=True):
        assert x == pytest.approx(y, **TOLERANCE)
    first, second = load_checkpoint(a / LAST)["model"], load_checkpoint(b / LAST)["model"]
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dataset", ["good", "partly_bad"])
def test_two_processes_equal_one(tmp_path, dataset):
    """Also with micro-batches of one, and with shares of which some hold no good sample at all."""
    make_trainer(tmp_path / "one", DATASETS[dataset](), **CHANGES).fit()
    train_with_two(tmp_path / "two", dataset, max_micro_batch=1)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_shares_of_the_partly_bad_dataset_are_sometimes_empty(tmp_path):
    """Guards the test above: the slow path is really taken, and not in every step."""
    trainer = make_trainer(tmp_path, PartlyBad(), **CHANGES)
    bad, stream = trainer.task.train.bad, trainer.sampler.stream(trainer.position)
    shares = [
        [all(i in bad for _, i in b[k : k + 2]) for k in (0, 2)] for b in (next(stream) for _ in range(16))
    ]
    assert any(sum(s) == 1 for s in shares)
    assert any(sum(s) == 0 for s in shares)


def test_bad_samples_end_the_run_on_every_process(tmp_path):
    train_with_two(tmp_path, "all_bad")


def test_sigterm_to_one_process_stops_all_and_one_process_resumes(tmp_path):
    train_with_two(tmp_path / "two", "sigterm")
    assert 0 < load_checkpoint(tmp_path / "two" / LAST)["step"] < 16
    make_trainer(tmp_path / "two", **CHANGES).fit()
    make_trainer(tmp_path / "one", **CHANGES).fit()
    assert_same(tmp_path / "one", tmp_path / "two")
