"""Build panorama caches: every panorama of a split in one HDF5 file, stitched once, lossless.

A build that was interrupted, even by kill -9, is continued by the same command. On a finished file the command does
nothing and says so. Under torchrun every process builds its own shard.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from coop3d.datasets.cache import COMPRESSIONS, DEFAULT_COMPRESSION, BuildSummary, CacheBuilder, verify
from coop3d.datasets.errors import DataError
from coop3d.datasets.options import (
    add_panorama_options,
    add_root_options,
    open_index,
    positive_int,
    recipe_of,
)
from coop3d.environment import git_revision
from coop3d.files import writing

EXAMPLES = """examples:
  # every split that training reads, then train from them
  python scripts/build_panorama_cache.py --images-root /data/opv2v --depth-root /data/opv2v_depth \\
      --split train validate test --output /ssd/panoramas --workers 16
  python scripts/train.py dataset.panoramas=cache machine.panorama_cache_root=/ssd/panoramas

  # is it still what stitching gives? (builds first what is not finished)
  python scripts/build_panorama_cache.py --images-root /data/opv2v --depth-root /data/opv2v_depth --split train \\
      --output /ssd/panoramas/train.h5 --verify --verify-samples 50

  # a quarter of the frames (shards count from 0): writes train.shard-0-of-4.h5
  python scripts/build_panorama_cache.py --images-root /data/opv2v --split train --output train.h5 --shard 0/4

  # four shards at once on one machine, or on several
  torchrun --nproc-per-node 4 scripts/build_panorama_cache.py --images-root /data/opv2v --split train --output train.h5

Exit status: 0 finished; 1 an error, or --verify found differences; 3 finished, but some frames could not be used (they
are listed, and recorded in the file).
"""

log = logging.getLogger("build_panorama_cache")


def _shard(text: str) -> tuple[int, int]:
    """``0/4`` -> (0, 4)."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected i/n with 0 <= i < n, e.g. 0/4")
    return int(i), int(n)


def _from_torchrun() -> tuple[int, int]:
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    add = parser.add_argument
    add_root_options(parser)
    add("--split", nargs="+", required=True, help="sub-folders of the roots")
    add("--output", type=Path, required=True,
        help="file to write, e.g. panoramas/train.h5; or a folder, e.g. panoramas, of SPLIT.h5")  # fmt: skip
    add_panorama_options(parser)
    add("--workers", type=positive_int, default=cores, help="stitching processes (default: one per core)")
    add("--compression", choices=COMPRESSIONS, default=DEFAULT_COMPRESSION, metavar="C",
        help="none, gzip-1 ... gzip-9; all lossless, up to 3 is fast (default: %(default)s)")  # fmt: skip
    add("--shard", type=_shard, default=_from_torchrun(), metavar="I/N",
        help="only this share of the frames (default: all; under torchrun: RANK/WORLD_SIZE)")  # fmt: skip
    add("--verify", action="store_true",
        help="afterwards stitch a random sample again and compare bit by bit")  # fmt: skip
    add(
        "--verify-samples",
        type=positive_int,
        default=16,
        help="panoramas checked by --verify (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="random seed of --verify (default: %(default)s)")
    args = parser.parse_args()
    if args.output.suffix == ".h5" and len(args.split) > 1:
        parser.error(
            f"--output {args.output} is one file, but there are {len(args.split)} splits; name a folder"
        )
    return args


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        builders = [_builder(args, split) for split in args.split]  # all, before the first slow step
        statuses = [_build(builder, args) for builder in builders]
    except (DataError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")
    return 1 if 1 in statuses else max(statuses)


def _builder(args: argparse.Namespace, split: str) -> CacheBuilder:
    path = args.output if args.output.suffix == ".h5" else args.output / f"{split}.h5"
    return CacheBuilder(
        path, open_index(args, split), recipe_of(args), shard=args.shard, compression=args.compression,
        provenance={"git": git_revision()},
    )  # fmt: skip


def _build(builder: CacheBuilder, args: argparse.Namespace) -> int:
    """Build one file, and verify it if wanted; its exit status."""
    with writing(builder.path, "--output, or repeat the command, which keeps what is finished"):
        summary = builder.build(args.workers)
    status = _report(summary)
    if args.verify:
        outcome = verify(summary.path, builder.index, builder.recipe, args.verify_samples, args.seed)
        for key, what in outcome.differing.items():
            log.error("%s differs from what stitching gives now: %s", key, what)
        log.info("verified: %d of %d panoramas differ", len(outcome.differing), outcome.checked)
        status = status if outcome.ok else 1
    return status


def _report(summary: BuildSummary) -> int:
    for key, problem in summary.problems.items():
        log.error("%s could not be used: %s", key, problem)
    bad = len(summary.problems)
    log.info(
        "%s: %d panoramas, %d frames could not be used, %.0f MB",
        summary.path, summary.frames - bad, bad, summary.path.stat().st_size / 1e6,
    )  # fmt: skip
    if bad:
        log.error(
            "repair these files, delete %s and build it again, or leave them out of training", summary.path
        )
    # Under torchrun a status would end the other shards, now and whenever the command is repeated.
    return 3 if bad and "TORCHELASTIC_RUN_ID" not in os.environ else 0


if __name__ == "__main__":
    sys.exit(main())
