"""The benchmark of a GPU, on a CPU with a small model: what it reports, and what it does when memory is short."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
CPU, SIZE = torch.device("cpu"), (56, 224)


@pytest.fixture
def bench_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import bench_gpu as module

    yield module
    for name in ("bench_gpu", "bench_presets", "bench_model", "measure"):
        sys.modules.pop(name, None)


def test_a_step_of_training_is_the_trainers_own(bench_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = bench_gpu.OptimiserStep.__call__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = [p.detach().clone() for p in self.model.parameters() if p.requires_grad]
        result = step(self, *args, **kwargs)
        after = [p for p in self.model.parameters() if p.requires_grad]
        moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        norms.append((result.grad_norm, moved))
        return result

    monkeypatch.setattr(bench_gpu.OptimiserStep, "__call__", watched)
    found = bench_gpu.measure(bench_gpu.Case("tiny", 2, "train"), SIZE, CPU, repeats=1)
    assert len(norms) == bench_gpu.WARM_UP + 1
    assert all(norm > 0 and moved for norm, moved in norms)
    assert found["views_per_second"] == pytest.approx(2e3 / found["ms"], rel=0.05, abs=0.05)
    assert found["estimated_fsdp_10_gib"] < found["estimated_gib"]


def test_operations_of_a_forward_pass_are_a_third_of_a_steps(
    bench_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_gpu, "median_seconds", lambda *_: 1.0)
    forward, train = (
        bench_gpu.measure(bench_gpu.Case("tiny", 2, mode), SIZE, CPU, repeats=1)["tflops"]
        for mode in ("forward", "train")
    )
    assert train == pytest.approx(3 * forward, rel=0.01)


def test_what_does_not_fit_says_so(bench_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(bench_gpu, "median_seconds", full)
    found = bench_gpu.measure(bench_gpu.Case("tiny", 2, "train"), SIZE, CPU, repeats=1)
    assert found["out_of_memory"] is True
    assert found["estimated_gib"] > 0
    assert "ms" not in found
