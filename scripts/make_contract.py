"""Draw a frame contract: a fixed list of which vehicles of which instants are scored, with its hash."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.benchmark import make_contract
from coop3d.datasets import DataError, VehicleSampling
from coop3d.datasets.options import positive_int
from coop3d.datasets.opv2v import AUTO, DEFAULT_CAMERAS, LayoutIndex, OPV2VIndex, is_layout_only
from coop3d.evaluation.contracts import PAIR_POLICIES, ContractError
from coop3d.files import writing

EXAMPLES = """examples:
  # 500 frames of the test split, pairs of nearest vehicles within 60 m, even over distances and scenarios
  python scripts/make_contract.py --images-root /data/opv2v --split test --name opv2v-test-nearest-v1 --count 500

  # two to four vehicles, the lowest ids first, every usable frame
  python scripts/make_contract.py --images-root /data/opv2v --split test --name opv2v-test-first-v1 \\
      --vehicles 2 4 --pair-policy first

Evaluate on it with: python scripts/evaluate.py checkpoint=RUN frames_json=configs/contracts/NAME.json
A contract never changes: a new draw gets a new name.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images-root", type=Path, required=True, help="folder that holds the splits")
    add("--split", default="test", help="folder under the images root (default: %(default)s)")
    add("--name", required=True, help="name of the contract; end it with a version, e.g. -v1")
    add("--output", type=Path, help="file (default: configs/contracts/NAME.json)")
    add(
        "--count",
        type=positive_int,
        help="number of samples, evenly over distances and scenarios (default: all)",
    )
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--vehicles", type=positive_int, nargs="+", default=[2], metavar="N",
        help="per sample: N, or MIN MAX (default: 2; 1 is the single-vehicle mode)")  # fmt: skip
    add("--pair-policy", choices=PAIR_POLICIES, default="nearest",
        help="which partners join a reference (default: %(default)s)")  # fmt: skip
    add("--max-distance-m", type=float, default=60.0,
        help="maximum distance of the partners; 0: no limit (default: %(default)s)")  # fmt: skip
    add("--cameras", nargs="+", default=list(DEFAULT_CAMERAS), metavar="NAME",
        help="every frame must have these; or auto (default: camera0 to camera3)")  # fmt: skip
    args = parser.parse_args()
    if len(args.vehicles) > 2:
        parser.error(f"--vehicles takes N, or MIN MAX; found {args.vehicles}")
    return args


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        sampling = VehicleSampling(
            vehicles=args.vehicles[0] if len(args.vehicles) == 1 else args.vehicles,
            pair_policy=args.pair_policy,
            max_distance_m=args.max_distance_m or None,
        )
        index: LayoutIndex | OPV2VIndex
        if is_layout_only(args.images_root / args.split):
            index = LayoutIndex(args.images_root, args.split)  # every frame, as all will have photographs
        else:
            cameras = AUTO if args.cameras == [AUTO] else tuple(args.cameras)
            index = OPV2VIndex(args.images_root, args.split, None, cameras)
        contract = make_contract(index, args.name, sampling, args.count, args.seed)
        output = args.output or Path("configs/contracts") / f"{args.name}.json"
        with writing(output, "--output"):
            contract.write(output)
    except (DataError, ContractError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{output}: {contract.describe()}")
    for bucket, count in contract.buckets().items():
        print(f"  {bucket:>8} {count:5d}")


if __name__ == "__main__":
    main()
