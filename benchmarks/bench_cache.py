"""Speed of the panorama cache against its bounds, in one run on one machine.

Build: panoramas per second of a cache build, beside what the same number of processes reaches that only decode the
photographs and load the depth files. Read: panoramas per second of processes reading at once, beside stitching the
files. Compression: time and size of every lossless option, on one thread. The start of processes is not counted;
medians over the repeats, in which build and bound take turns.

python benchmarks/bench_cache.py --output benchmarks/results/cache.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from measure import median_ms, report

from coop3d.datasets import CachedPanoramas, StitchedPanoramas
from coop3d.datasets.cache import CacheBuilder
from coop3d.datasets.cache.format import decode, encode, image_arrays, images_of, level_of
from coop3d.datasets.cache.journal import Journal, Place, Record
from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.datasets.synthetic import SyntheticConfig, make_synthetic_opv2v
from coop3d.geometry import EquirectangularCamera
from coop3d.types import Panorama

RECIPE = PanoramaRecipe(EquirectangularCamera(1008, 252), depth_source="dense")


def make_data(root: Path, panoramas: int, workers: int) -> OPV2VIndex:
    """24 frames at 800x600, under as many scenario names as it takes to have enough."""
    config = SyntheticConfig(scenarios={"train": 1}, frames=8, vehicles=(3, 3), workers=workers)
    make_synthetic_opv2v(root / "images", root / "depth", config, progress=False)
    for folder in (root / "images" / "train", root / "depth" / "train"):
        (scenario,) = folder.iterdir()
        for copy in range(1, -(-panoramas // 24)):
            (folder / f"{scenario.name}_{copy}").symlink_to(scenario)
    return OPV2VIndex(root / "images", "train", root / "depth")


def steady_rate(times: list[float], warm_up: int, end: float) -> float:
    """Results per second after the first ``warm_up`` of them, up to ``end``."""
    return (len(times) - warm_up) / (end - times[warm_up - 1])


def build_rate(index: OPV2VIndex, path: Path, workers: int, warm_up: int) -> float:
    """Of a build that is under way; ending its processes takes another half second, once."""
    times: list[float] = []

    class Watched(Journal):
        def read(self, place: Place) -> Record:
            times.append(time.perf_counter())
            return super().read(place)

    import coop3d.datasets.cache.builder as builder_module

    path.unlink(missing_ok=True)
    builder_module.Journal = Watched  # type: ignore[misc]
    try:
        CacheBuilder(path, index, RECIPE).build(workers, progress=False)
    finally:
        builder_module.Journal = Journal  # type: ignore[misc]
    return steady_rate(times, warm_up, times[-1])


def decode_frame(entry: FrameEntry) -> int:
    """The bound: nothing but decoding PNGs (by OpenCV) and loading depth."""
    cv2.setNumThreads(1)
    encoded = [np.fromfile(path, np.uint8) for path in entry.image_paths]
    size = sum(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).size for data in encoded)
    assert entry.depth_paths is not None
    return size + sum(np.load(path).size for path in entry.depth_paths)


def decode_rate(index: OPV2VIndex, workers: int, warm_up: int) -> float:
    """The same number of processes that only decode."""
    times = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(decode_frame, index.frames):
            times.append(time.perf_counter())
        return steady_rate(times, warm_up, times[-1])


def load_for(make: Callable[[], Any], seconds: float, seed: int) -> float:
    """Panoramas per second of this process, in random order, for a while."""
    cv2.setNumThreads(1)
    source = make()
    rng = np.random.default_rng(seed)
    entries = source.index.frames
    for _ in range(5):
        source.load(entries[int(rng.integers(len(entries)))])
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (panorama,) = source.load(entries[int(rng.integers(len(entries)))])
        count += int(panorama.rgb.shape[0] > 0)
    return count / (time.perf_counter() - start)


class Cached:
    """Picklable: open a cache."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> CachedPanoramas:
        return CachedPanoramas(self.path)


class Raw:
    """Picklable: stitch files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self) -> StitchedPanoramas:
        return StitchedPanoramas(self.root / "images", "train", RECIPE.camera, self.root / "depth", "dense")


def read_rates(make: Callable[[], Any], workers: int, seconds: float, repeats: int) -> list[float]:
    """Sums over processes that read at once, one per repeat."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(load_for, [make] * workers, [0.1] * workers, range(workers)))  # start, import, compile
        return [
            sum(pool.map(load_for, [make] * workers, [seconds] * workers, range(workers)))
            for _ in range(repeats)
        ]


def compressions(panorama: Panorama, folder: Path) -> Iterator[dict[str, Any]]:
    """One line per lossless option, over rgb + range_m + flags of one panorama, one thread."""
    arrays, specs = image_arrays(panorama), images_of("rig")

    def through_h5py(name: str, write: Callable[[h5py.File], None]) -> tuple[float, int]:
        path = folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            write(file)
        with h5py.File(path, "r", rdcc_nbytes=0) as file:
            size = sum(d.id.get_chunk_info(0).size for d in file.values())
            return median_ms(lambda: [d[0] for d in file.values()]), size

    for option in ("none", "gzip-1", "gzip-2", "gzip-3", "gzip-4", "gzip-9"):
        level = level_of(option)
        chunks = {name: encode(arrays[name], specs[name], level) for name in arrays}

        def write(file: h5py.File, level: int = level, chunks: dict[str, bytes] = chunks) -> None:
            for name, array in arrays.items():
                filters = {"compression": "gzip", "compression_opts": level, "shuffle": specs[name].shuffled}
                d = file.create_dataset(
                    name,
                    (1, *array.shape),
                    array.dtype,
                    chunks=(1, *array.shape),
                    **(filters if level else {}),
                )
                d.id.write_direct_chunk((0,) * d.ndim, chunks[name])

        plain, size = through_h5py(option, write)
        yield {
            "option": option,
            "MB": round(size / 1e6, 3),
            "compress_ms": median_ms(
                lambda level=level: [encode(arrays[n], specs[n], level) for n in arrays]
            ),
            "read_ms": median_ms(
                lambda level=level, chunks=chunks: [
                    decode(chunks[n], specs[n], arrays[n].shape, level) for n in arrays
                ]
            ),
            "read_by_plain_h5py_ms": plain,
        }

    def write_lzf(file: h5py.File) -> None:
        for name, array in arrays.items():
            d = file.create_dataset(name, (1, *array.shape), array.dtype, chunks=(1, *array.shape),
                                    compression="lzf", shuffle=specs[name].shuffled)  # fmt: skip
            d[0] = array

    def compress_lzf() -> None:
        with h5py.File(folder / "w.h5", "w") as file:
            write_lzf(file)

    plain, size = through_h5py("lzf", write_lzf)
    yield {"option": "lzf (for comparison)", "MB": round(size / 1e6, 3), "compress_ms": median_ms(compress_lzf),
           "read_ms": plain, "read_by_plain_h5py_ms": plain}  # fmt: skip


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()


def measure(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything."""
    index = make_data(root, args.panoramas, args.workers)
    path, warm_up = root / "train.h5", len(index) // 2  # by then every process has started and compiled
    build, bound = [], []
    for _ in range(args.repeats):
        bound.append(decode_rate(index, args.workers, warm_up))
        build.append(build_rate(index, path, args.workers, warm_up))
    cached = read_rates(Cached(path), args.workers, args.seconds, args.repeats)
    raw = read_rates(Raw(root), args.workers, args.seconds, args.repeats)
    (panorama,) = Raw(root)().load(index.frames[0])
    cv2.setNumThreads(1)

    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 1)

    return {
        "panorama": "1008x252 from 4 x 800x600 PNG and dense float32 depth, rgb + float32 range + flags",
        "processes": args.workers,
        "build_panoramas_per_s": middle(build),
        "decode_bound_panoramas_per_s": middle(bound),
        "build_of_bound": round(statistics.median(b / d for b, d in zip(build, bound, strict=True)), 3),
        "read_panoramas_per_s": middle(cached),
        "stitching_files_panoramas_per_s": middle(raw),
        "MB_per_panorama": round(path.stat().st_size / len(index) / 1e6, 3),
        "each": {name: [round(v, 1) for v in values] for name, values in
                 {"build": build, "bound": bound, "read": cached, "stitching": raw}.items()},
        "lossless_options_one_thread": list(compressions(panorama, root)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--panoramas", type=int, default=144, help="per build (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="per reading (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for temporary files (default: the system's)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        result = measure(Path(root), args)
    result["command"] = shlex.join(["python", *sys.argv])
    result["hardware"] = f"{processor()}, {os.cpu_count()} cores, load at start {load:.1f}"
    result["software"] = f"{platform.system()}, Python {platform.python_version()}, h5py {h5py.__version__}"
    report(result, args.output)


if __name__ == "__main__":
    main()
