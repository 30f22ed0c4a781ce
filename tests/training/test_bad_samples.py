"""Samples that cannot be read, code that raises, workers that die, numbers that are not: each has its name."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.toy_run import ToyDataset, ToyLoss, make_trainer, records
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from coop3d.conf import BadSamplePolicy
from coop3d.training.checkpoint import LAST, load_checkpoint
from coop3d.training.data import BadRecord, BadSampleLedger, BadSamplesError, SampleError
from coop3d.training.guard import NonFiniteError
from coop3d.training.trainer import Outcome

ROOT = Path(__file__).resolve().parents[2]


def test_skip_counts_each_sample_once_and_logs_key_and_reason(tmp_path, caplog):
    assert make_trainer(tmp_path, ToyDataset(bad=(4, 9)), epochs=5).fit() is Outcome.finished
    state = load_checkpoint(tmp_path / LAST)
    key = "town/0/000004 + town/1/000004"
    assert state["bad_samples"][key] == "/data/4.png: truncated"
    assert len(state["bad_samples"]) == 2
    assert len(records(tmp_path, "bad_sample")) > 2  # met in several passes, logged each time
    assert caplog.text.count(f"Bad sample {key}: /data/4.png: truncated") == 1  # warned once


def test_stop_at_the_first(tmp_path):
    trainer = make_trainer(tmp_path, ToyDataset(bad=(4,)), on_bad_sample=BadSamplePolicy.stop)
    with pytest.raises(BadSamplesError, match=r"000004: /data/4\.png: truncated\n.*on_bad_sample=stop"):
        trainer.fit()


def test_limit_stops_with_the_list(tmp_path):
    trainer = make_trainer(tmp_path, ToyDataset(bad=(1, 2, 4, 5)), max_bad_samples=3, epochs=50)
    with pytest.raises(BadSamplesError, match=r"These 4 samples .*max_bad_samples=3") as caught:
        trainer.fit()
    assert all(f"/data/{i}.png" in str(caught.value) for i in (1, 2, 4, 5))


def test_a_run_on_nothing_but_bad_samples_ends(tmp_path):
    trainer = make_trainer(tmp_path, ToyDataset(12, bad=tuple(range(12))), max_bad_samples=30)
    with pytest.raises(BadSamplesError, match="none could be read"):
        trainer.fit()
    assert trainer.step == 0
    assert 1 < trainer.skipped_batches < 12


def test_a_good_sample_resets_the_run_of_bad_ones():
    ledger = BadSampleLedger(BadSamplePolicy.skip, limit=2)
    for _ in range(5):
        ledger.add([BadRecord("a", "r"), BadRecord("a", "r")], good=0)
        ledger.add([BadRecord("a", "r")], good=3)
    assert list(ledger.reasons) == ["a"]


def test_one_broken_file_counts_once_in_whatever_company():
    ledger = BadSampleLedger(BadSamplePolicy.skip, limit=2)
    for pass_ in range(9):
        records = [
            BadRecord(f"a + {pass_}", "/data/a.png: truncated"),
            BadRecord(f"b + {pass_}", "/data/b.png"),
        ]
        ledger.add(records, good=2)
    assert ledger.reasons == {"a + 0": "/data/a.png: truncated", "b + 0": "/data/b.png"}
    ledger.restore(
        {"a + 0": "/data/a.png: truncated", "b + 0": "/data/b.png", "a + 7": "/data/a.png: truncated"}
    )
    assert ledger.reasons == {"a + 0": "/data/a.png: truncated", "b + 0": "/data/b.png"}
    with pytest.raises(BadSamplesError, match="These 3 samples"):
        ledger.add([BadRecord("c + 0", "/data/c.png: truncated")], good=2)


FAILING = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from support.toy_run import ToyDataset, make_trainer, records
if __name__ == "__main__":
    torch.multiprocessing.set_start_method({method!r})
    make_trainer(Path({run_dir!r}), ToyDataset(bad=(1, 2)), num_workers=1, max_bad_samples=1, epochs=50).fit()
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_failed_run_with_loader_processes_ends(tmp_path, method):
    """At exit the trainer waits for its workers without a time limit, so they must obey its SIGTERM."""
    script = tmp_path / "toy.py"
    script.write_text(FAILING.format(tests=str(ROOT / "tests"), run_dir=str(tmp_path / "run"), method=method))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.returncode == 1
    assert "max_bad_samples=1" in done.stderr


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_raising_dataset_is_reported_with_the_sample(tmp_path, num_workers):
    trainer = make_trainer(tmp_path, ToyDataset(raises=7), num_workers=num_workers, epochs=9)
    with pytest.raises(SampleError, match=r"town/0/000007 \+ town/1/000007 .*index 7\) failed: KeyError"):
        trainer.fit()


def test_a_killed_worker_is_reported_with_the_samples_in_flight(tmp_path):
    dataset = ToyDataset()
    dataset.kill_at = 7
    with pytest.raises(SampleError, match=r"town/0/\d{6}.*lower machine\.num_workers"):
        make_trainer(tmp_path, dataset, num_workers=1, epochs=9).fit()
    # Another worker that loads the same sample may be killed later, which PyTorch would report in the next test.
    gc.collect()
    with suppress(RuntimeError):
        _error_if_any_worker_fails()


class Poisoned(ToyLoss):
    """NaN once range gets near 5; which batch that is, the data decide."""

    def __call__(self, prediction, targets):
        output = super().__call__(prediction, targets)
        factor = math.nan if targets.range_m.max() > 5.0 else 1.0
        return type(output)(output.total * factor, output.terms)


def test_non_finite_loss_stops_before_the_update_and_names_the_samples(tmp_path):
    trainer = make_trainer(tmp_path, max_micro_batch=1)
    trainer.task = replace(trainer.task, loss_function=Poisoned())
    with pytest.raises(NonFiniteError, match="Among the samples: town/0/"):
        trainer.fit()
    record = json.loads(next(tmp_path.glob("failures/step_*/record.json")).read_text())
    assert len(record["micro_batches"]) == 4
    suspects = [m for m in record["micro_batches"] if math.isnan(m["loss"])]
    index = int(suspects[0]["samples"][0][0].rpartition("/")[2])
    epoch = record["position"]["epoch"] if record["position"]["batch"] else record["position"]["epoch"] - 1
    assert ToyDataset()[(epoch, index)].batch.targets.range_m.max() > 5.0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
