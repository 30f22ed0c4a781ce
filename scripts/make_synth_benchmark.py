"""Make a standard synthetic benchmark, or what is missing of it, verify it, and print its hashes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from coop3d.benchmark.set_scenarios import write_hashes
from coop3d.benchmark.synthetic_sets import (
    SyntheticSet,
    Verdict,
    depth_root_of,
    load_set,
    make_set,
    set_names,
    verify_set,
)
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


MACHINES = {  # in configs/machine
    "coop3d-synth-v1": "synth",
    "coop3d-synth-v1-small": "synth_small",
    "coop3d-synth-v1-outskirts-small": "synth_outskirts",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=set_names(), help="which benchmark")
    parser.add_argument("--output", type=Path, required=True, metavar="ROOT", help="folder of photographs")
    parser.add_argument("--verify", action="store_true", help="make nothing, only compare what is there")
    parser.add_argument(
        "--towns", type=positive_int, metavar="N", help="only the first N towns of each split"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="these splits, or scenarios as SPLIT/SCENARIO"
    )
    parser.add_argument(
        "--layout-only", action="store_true", help="YAML alone; with --verify: compare nothing else"
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
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    report(args, wanted, found)


def report(args: argparse.Namespace, wanted: SyntheticSet, found: Verdict) -> None:
    """Print what is there, its hashes, and what can be done with it."""
    total, there = sum(wanted.config.scenarios.values()), len(found.scenarios)
    kind = "layout" if args.layout_only else "data"
    print(f"{wanted.name}: {kind} of {there} of {total} scenarios, {found.vehicle_frames} vehicle-frames")
    print(f"  layout   sha256 {found.layout_sha256}")
    compared = sum(key in wanted.scenarios for key in found.scenarios)
    if compared:
        same = compared - len(found.other_yaml)
        other = (
            f"; not {found.other_yaml[0]} (last digits differ between processors)" if found.other_yaml else ""
        )
        print(f"  YAML     of {same} of {compared} scenarios as published, byte for byte{other}")
    if args.layout_only:
        print(
            "  contracts: scripts/make_contract.py takes this folder; photographs: the same without --layout-only"
        )
        return
    print(f"  content  sha256 {found.content_sha256} ({sameness(found)})")
    for split, means in found.means.items():
        print(f"  {split}: " + ", ".join(f"{k} {v:.7g}" for k, v in means._asdict().items()))
    print(f"  photographs {args.output}, depth {depth_root_of(args.output)}")
    for contract in wanted.contracts:
        print(f"  score on frames_json=configs/contracts/{contract}.json")
    machine = MACHINES[args.name]
    # Training would go on to make the whole, which a slice's folder refuses and who asked for a part does not want.
    rest = "" if wanted.name == args.name and not args.only else " machine.synthetic=null"
    print(f"  train with machine={machine} machine.opv2v_images_root={args.output} "
          f"machine.opv2v_depth_root={depth_root_of(args.output)}{rest}")  # fmt: skip


def sameness(found: Verdict) -> str:
    """How content compares with what was published."""
    if found.exact is None:
        return "nothing published to compare with"
    if found.exact:
        return "as published, bit for bit"
    if found.agreeing:
        return f"as published but for rounding of this processor, by the means of {', '.join(found.agreeing)}"
    return "not the published bits: another processor rounds so, and only means of whole splits could tell"


if __name__ == "__main__":
    main()
