"""Make a standard synthetic benchmark, or what is missing of it, verify it, and print its hashes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from coop3d.benchmark.synthetic_sets.definition import load_set, set_names
from coop3d.benchmark.synthetic_sets.report import set_report
from coop3d.benchmark.synthetic_sets.scenarios import write_hashes
from coop3d.benchmark.synthetic_sets.verification import make_set, verify_set
from coop3d.datasets.options import positive_int

EXAMPLES = """examples:
  # the one for two CPU cores, where machine=synth_small looks for it; interrupted, the same command goes on
  python scripts/make_synth_benchmark.py coop3d-synth-v1-small --output data/coop3d_synth_v1_small

  # the one for GPUs, where machine=synth looks for it
  python scripts/make_synth_benchmark.py coop3d-synth-v1 --output data/coop3d_synth_v1 --workers 16

  # whether a folder still holds exactly the data set; nothing is written
  python scripts/make_synth_benchmark.py coop3d-synth-v1-small --output data/coop3d_synth_v1_small --verify

  # the first two towns of each split, e.g. for a test
  python scripts/make_synth_benchmark.py coop3d-synth-v1-small --output /tmp/slice --towns 2

  # only what is scored; without --only the same command makes the rest
  python scripts/make_synth_benchmark.py coop3d-synth-v1 --output data/coop3d_synth_v1 --only test

  # who stands where, without photographs: YAML alone, enough to draw contracts; run without the option, it goes on
  python scripts/make_synth_benchmark.py coop3d-synth-v1 --output data/coop3d_synth_v1 --layout-only

Depth goes to OUTPUT_depth. A folder that holds anything else is refused. docs/datasets.md says what the hashes cover.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=set_names(), help="which benchmark")
    parser.add_argument("--output", type=Path, required=True, metavar="ROOT", help="folder of photographs")
    parser.add_argument(
        "--verify", action="store_true", help="generate nothing, only verify the existing data"
    )
    parser.add_argument(
        "--towns", type=positive_int, metavar="N", help="only the first N towns of each split"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="these splits, or scenarios as SPLIT/SCENARIO"
    )
    parser.add_argument(
        "--layout-only",
        action="store_true",
        help="generate only the YAML; with --verify: verify only the YAML",
    )
    parser.add_argument(
        "--write-hashes", type=Path, metavar="FILE",
        help="write hashes of each scenario, as in configs/benchmark/NAME.scenarios.txt",
    )  # fmt: skip
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        wanted = load_set(args.name) if args.towns is None else load_set(args.name).slice(args.towns)
        part = {"only": args.only, "layout_only": args.layout_only, "workers": args.workers}
        if args.verify:
            found = verify_set(
                wanted, args.output, watch=lambda f: tqdm(f, "verify", disable=args.quiet), **part
            )
        else:
            found = make_set(wanted, args.output, progress=not args.quiet, **part)
        if args.write_hashes is not None:
            write_hashes(args.write_hashes, found.scenarios)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(
        set_report(
            args.name, wanted, found, args.output, is_part=bool(args.only), layout_only=args.layout_only
        )
    )


if __name__ == "__main__":
    main()
