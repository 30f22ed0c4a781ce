"""Make a standard synthetic benchmark, or what is missing of it, verify it, and print its hashes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from coop3d.benchmark.synthetic_sets import depth_root_of, load_set, make_set, set_names, verify_set
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

Depth goes to OUTPUT_depth. A folder that holds anything else is refused. docs/datasets.md says what the hashes cover.
"""


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
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        wanted = load_set(args.name) if args.towns is None else load_set(args.name).slice(args.towns)
        if args.verify:
            found = verify_set(wanted, args.output, workers=args.workers,
                               watch=lambda frames: tqdm(frames, "verify", disable=args.quiet))  # fmt: skip
        else:
            found = make_set(wanted, args.output, workers=args.workers, progress=not args.quiet)
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    same = {True: "as published, bit for bit", False: "as published but for rounding of this processor",
            None: "nothing published to compare with"}[found.exact]  # fmt: skip
    print(f"{wanted.name}: complete, {found.vehicle_frames} vehicle-frames, {wanted.config.scenarios}")
    print(f"  layout   sha256 {found.layout_sha256}")
    print(f"  content  sha256 {found.content_sha256} ({same})")
    for split, means in found.means.items():
        print(f"  {split}: " + ", ".join(f"{k} {v:.7g}" for k, v in means._asdict().items()))
    print(f"  photographs {args.output}, depth {depth_root_of(args.output)}")
    for contract in wanted.contracts:
        print(f"  score on frames_json=configs/contracts/{contract}.json")
    machine = "synth_small" if args.name.endswith("small") else "synth"
    # Training would go on to make the whole, which a slice's folder refuses.
    rest = "" if wanted.name == args.name else " machine.synthetic=null"
    print(f"  train with machine={machine} machine.opv2v_images_root={args.output} "
          f"machine.opv2v_depth_root={depth_root_of(args.output)}{rest}")  # fmt: skip


if __name__ == "__main__":
    main()
