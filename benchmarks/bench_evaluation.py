"""What evaluation costs beside the model's own time: reading, scoring and baselines against inference alone.

Panoramas come from a cache; every sample has four of them, taken in turn from the split (which instant they are of does
not matter for time). Inference alone runs the same batches from memory.

python scripts/build_panorama_cache.py --images-root data/demo_opv2v --depth-root data/demo_opv2v_depth --split test \\
    --width 512 --output /tmp/cache/test.h5
python benchmarks/bench_evaluation.py --checkpoint weights/coop3d_small_synth_v1.pth --cache /tmp/cache/test.h5 \\
    --output benchmarks/results/evaluation.json
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import report

from coop3d.benchmark.baselines import BASELINES, FITTED
from coop3d.benchmark.entrants import Blind
from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.journal import Journal
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.runner import Task, run_pass
from coop3d.benchmark.samples import Samples
from coop3d.conf import Precision
from coop3d.datasets import CachedPanoramas, CoopSample, collate_coop, make_batch
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.evaluation import TrainingStatistics
from coop3d.evaluation.contracts import ContractSample, FrameContract
from coop3d.geometry import EquirectangularCamera
from coop3d.training.distributed import Processes
from coop3d.training.run import load_run
from coop3d.training.step import make_autocast
from coop3d.types import SampleKey

VARIANTS = {
    "model": (),
    "model_and_trivial": (*FITTED, "gnss", "truth"),
    "model_and_all": tuple(BASELINES),
}


class FourAtATime:
    """Samples of four cached panoramas."""

    def __init__(self, source: CachedPanoramas, samples: int) -> None:
        self.source, self.samples = source, samples
        self.entries = list(source.index.frames)

    def __len__(self) -> int:
        return self.samples

    def num_views_of(self, epoch: int, index: int) -> int:
        return 4

    def keys_of(self, epoch: int, index: int) -> tuple[SampleKey, ...]:
        return tuple(SampleKey("cache", str(v), f"{index:06d}") for v in range(4))

    def __getitem__(self, request: tuple[int, int]) -> CoopSample:
        picked = [self.entries[(4 * request[1] + v) % len(self.entries)] for v in range(4)]
        return CoopSample(make_batch([self.source.load(entry) for entry in picked]))


def samples_of(dataset: FourAtATime) -> Samples:
    keys = [dataset.keys_of(0, i) for i in range(len(dataset))]
    contract = FrameContract(
        name="cache", split="test", samples=tuple(ContractSample.from_keys(k) for k in keys)
    )
    batches = tuple(((0, i),) for i in range(len(dataset)))
    return Samples(dataset=dataset, contract=contract, batches=batches, is_given=True)


@torch.inference_mode()
def inference_seconds(model: Any, dataset: FourAtATime, device: torch.device, autocast: Any) -> float:
    """The model alone: batches lie in memory, predictions are fetched to the CPU."""
    distinct = [collate_coop([dataset[0, i]]).batch for i in range(min(8, len(dataset)))]
    total = 0.0
    for i in range(-1, len(dataset)):
        batch = distinct[i % len(distinct)]
        assert batch is not None
        began = time.perf_counter()
        with autocast():
            model(batch.inputs.to(device)).to("cpu")
        total += time.perf_counter() - began if i >= 0 else 0.0  # the first warms up
    return total


def evaluation_seconds(task: Task, me: Processes, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        options = EvaluationOptions(num_workers=workers)
        times = run_pass(task, Journal(Path(folder)), me, options, "evaluating").times
    return {k: round(v, 3) for k, v in vars(times).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="{split}.h5 of panoramas")
    parser.add_argument(
        "--width", type=int, default=512, help="of the cached panoramas (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of all variants in turn (default: %(default)s)"
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to time (default: all)"
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = load_run(args.checkpoint, device)
    recipe = PanoramaRecipe(EquirectangularCamera(args.width, args.width // 4))
    dataset = FourAtATime(CachedPanoramas(args.cache, recipe, "test"), args.samples)
    samples, me = samples_of(dataset), Processes(rank=0, world_size=1, device=device)
    autocast = make_autocast(Precision[run.config.train_params.precision], device)
    statistics = TrainingStatistics()
    for i in range(4):
        statistics.update(dataset[0, i].batch.targets)
    model = Blind("model", "checkpoint", run.model, InputSet.images_rays_rig)
    variants = {name: VARIANTS[name] for name in args.variants}
    rounds: dict[str, list[dict[str, float]]] = {"inference_alone": [], **{name: [] for name in variants}}
    for _ in range(args.rounds):  # in turn, so that a busy machine is busy for all
        seconds = inference_seconds(run.model, dataset, device, autocast)
        rounds["inference_alone"].append({"wall": round(seconds, 3)})
        for title, names in variants.items():
            host = [b.entrant(statistics) for name, b in BASELINES.items() if name in names]
            task = Task(samples=samples, model=model, host=host, autocast=autocast)
            rounds[title].append(evaluation_seconds(task, me, args.workers))
    best = {name: min(times, key=lambda t: t["wall"]) for name, times in rounds.items()}
    # whichever is faster: on a busy machine the model by itself may be the slower one
    alone = min(best["inference_alone"]["wall"], *(best[name]["inference"] for name in variants))
    found: dict[str, Any] = {
        "samples": args.samples, "vehicles": 4, "size": [args.width, args.width // 4], "device": str(device),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "loader_processes": args.workers,
        "cpu": platform.machine(), "rounds": args.rounds, "note": "fastest round of each",
        "over_inference": {name: round(best[name]["wall"] / alone, 3) for name in variants},
        **best,
    }  # fmt: skip
    report(found, args.output)


if __name__ == "__main__":
    main()
