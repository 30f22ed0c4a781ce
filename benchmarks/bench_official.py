"""MapAnything's own code and this one, at the size of benchmarks/bench_model.py: the same outputs, time and memory.

Both are alive at once, each in a process of its own, and step in turn: what else the machine does slows both down. The
first step is a warm-up. A process keeps much of its speed from its first to its last step and the next one may have
another, so everything is repeated with new processes (``--pairs``): medians over these of each one's median step.
Memory is the peak above the built model. ``agreement`` is the relative L2 distance of the outputs for the same weights
and images.

``--official`` is a folder with checkouts of facebookresearch/map-anything, castacks/UniCeption and
facebookresearch/dinov2, at the commits named in results/model_official.json. Their code needs einops and jaxtyping.

python benchmarks/bench_official.py --official DIR --output official.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import official_code
import torch
from bench_model import MODES, THREADS, hardware, middle_size, objective, some_views, timed_step
from measure import in_new_process, peak_bytes, report, resident_bytes
from tqdm import tqdm

from coop3d.models.checkpoints import load_checkpoint

SIDES = ("official", "ours")


def agreement(folder: Path) -> dict[str, float]:
    """Relative L2 distance of every output, both models with the official one's weights."""
    torch.set_num_threads(THREADS)
    official = official_code.with_visible_weights(official_code.build(folder, checkpointing=False)).eval()
    ours = middle_size(checkpointing=False).eval()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "checkpoint-official.pth"
        torch.save({"model": official.state_dict()}, path)
        load_checkpoint(ours, path)
    inputs = some_views()
    with torch.no_grad():
        expected, found = official(official_code.views_of(inputs.image)), ours(inputs)
    outputs = {
        "pts3d": found.points_ref,
        "ray_directions": found.rays,
        "depth_along_ray": found.range_m[..., None],
        "conf": found.confidence,
        "non_ambiguous_mask_logits": found.mask_logits,
        "cam_trans": found.trans * found.scale[:, None, None],
        "cam_quats": found.quat_xyzw,
    }
    distances = {}
    for name, mine in outputs.items():
        theirs = torch.stack([view[name] for view in expected], dim=1).double()
        distances[name] = float(f"{float((mine.double() - theirs).norm() / theirs.norm()):.1e}")
    return distances


def work(side: str, mode: str, folder: Path, line: Connection) -> None:
    """Build one model, answer every True with the times of a step, and the end with this process's memory."""
    torch.set_num_threads(THREADS)
    training, checkpointing = mode != "inference", mode == "train_checkpointed"
    # Modules that checkpointing imports when first used count as built in both.
    torch.utils.checkpoint.checkpoint(torch.sin, torch.ones(1, requires_grad=True), use_reentrant=False)
    inputs: Any = some_views()
    value: Callable[[Any], torch.Tensor]
    if side == "official":
        model = official_code.build(folder, checkpointing)
        inputs, value = official_code.views_of(inputs.image), official_code.objective
    else:
        model, value = middle_size(checkpointing), objective
    model.train(training)
    built = resident_bytes()
    line.send("built")
    while line.recv():
        line.send(timed_step(model, inputs, value if training else None))
    line.send({"built_gb": built / 1e9, "above_built_gb": (peak_bytes() - built) / 1e9})


def pair(mode: str, steps: int, folder: Path) -> dict[str, dict[str, float]]:
    """Median step and memory of both, with new processes."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    times: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
    for side in SIDES:
        lines[side], end = context.Pipe()
        context.Process(target=work, args=(side, mode, folder, end), daemon=True).start()
        end.close()  # so that a process that dies ends what waits for it
        lines[side].recv()
    for _ in range(1 + steps):
        for side, line in lines.items():
            line.send(True)
            times[side].append(line.recv())
    found = {}
    for side, line in lines.items():
        line.send(False)
        _, seconds, processor = zip(*times[side][1:], strict=True)
        speed = {"seconds": statistics.median(seconds), "processor_seconds": statistics.median(processor)}
        found[side] = speed | line.recv()
    return found


def measure(mode: str, pairs: int, steps: int, folder: Path) -> dict[str, Any]:
    """Medians over pairs of processes, and the ratio of every pair."""
    found = [pair(mode, steps, folder) for _ in tqdm(range(pairs), mode)]
    medians = {
        side: {name: round(statistics.median(x[side][name] for x in found), 2) for name in found[0][side]}
        for side in SIDES
    }
    faster = sorted(round(x["official"]["seconds"] / x["ours"]["seconds"], 2) for x in found)
    smaller = sorted(round(x["ours"]["above_built_gb"] / x["official"]["above_built_gb"], 2) for x in found)
    return medians | {
        "official_over_ours_seconds": {"median": round(statistics.median(faster), 2), "every": faster},
        "ours_over_official_above_built": {"median": round(statistics.median(smaller), 2), "every": smaller},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, required=True, help="folder with the three checkouts")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--pairs", type=int, default=5, help="of processes")
    parser.add_argument("--steps", type=int, default=4, help="of each process, after one as a warm-up")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    folder = args.official.resolve()
    result = {
        "command": f"python benchmarks/bench_official.py --official DIR --pairs {args.pairs} --steps {args.steps}",
        "hardware": hardware(),
        "agreement": in_new_process(agreement, folder),
        "modes": {mode: measure(mode, args.pairs, args.steps, folder) for mode in args.modes},
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
