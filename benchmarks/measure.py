"""What the benchmarks measure with."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop3d.files import write_text

if TYPE_CHECKING:  # some benchmarks measure what runs without torch
    from torch import Tensor


def median_ms(task: Callable[[], Any], repeats: int = 9, warm_up: int = 3) -> float:
    """Median time of ``repeats`` runs after ``warm_up`` others, in milliseconds."""
    for _ in range(warm_up):
        task()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times), 2)


def speed_and_rounding(
    task: Callable[[], Tensor], exact: Tensor, operations: int, repeats: int, warm_up: int
) -> dict[str, float]:
    """Median time, 1e9 operations per second, and the result's relative L2 distance from the ``exact`` one."""
    milliseconds = median_ms(task, repeats, warm_up)
    rounding = float((task().double() - exact).norm() / exact.norm())
    return {
        "ms": milliseconds,
        "gflops": round(operations / milliseconds / 1e6),
        "rounding": float(f"{rounding:.1e}"),
    }


def output_asked_for(description: str | None) -> Path | None:
    """The command line of a benchmark without options: --help, and the file that its result is written to, too."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    output: Path | None = parser.parse_args().output
    return output


def in_new_process(task: Callable[..., Any], *arguments: Any) -> Any:
    """What the task returns from a process of its own, whose peak of memory is the task's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def peak_bytes() -> int:
    """Largest memory of this process so far (Linux)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """Memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def report(result: Mapping[str, Any], output: Path | None) -> None:
    """Print a result as JSON, and write the same to a file if one is named."""
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if output is not None:
        write_text(output, text)
