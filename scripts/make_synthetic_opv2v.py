"""Make a synthetic OPV2V: procedural towns, ray-traced photographs, exact depth, LiDAR sweeps, YAML."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.datasets.synthetic import DISTANCES, DOMAIN_NAMES, SyntheticConfig, make_synthetic_opv2v

EXAMPLES = """examples:
  # a small set for trying things out: about 180 vehicle-frames
  python scripts/make_synthetic_opv2v.py --output data/synthetic_opv2v --image-size 320x240

  # full-size photographs, eight training towns with up to five connected vehicles each
  python scripts/make_synthetic_opv2v.py --output data/big --image-size 800x600 --frames 40 --vehicles 2-5 \\
      --scenarios train=8,validate=2,test=2,test_culver_city=1 --workers 8

A run that was interrupted is finished by the same command. Depth goes to <output>_depth unless said otherwise.
"""


def _scenarios(text: str) -> dict[str, int]:
    """``train=4,validate=1`` -> dict."""
    out = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if not count.strip().isdigit():
            raise argparse.ArgumentTypeError(f"found {part!r}, expected SPLIT=COUNT, e.g. train=4,validate=1")
        out[name.strip()] = int(count)
    return out


def _size(text: str) -> tuple[int, int]:
    """``800x600`` -> (800, 600)."""
    w, _, h = text.lower().partition("x")
    if not (w.isdigit() and h.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected WIDTHxHEIGHT, e.g. 800x600")
    return int(w), int(h)


def _span(text: str) -> tuple[int, int]:
    """``2-4`` or ``3`` -> (2, 4) or (3, 3)."""
    low, _, high = text.partition("-")
    if not low.isdigit() or not (high or low).isdigit():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number or FEWEST-MOST, e.g. 2-4")
    return int(low), int(high or low)


def main() -> int:
    default = SyntheticConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the data set (images, LiDAR, YAML)"
    )
    parser.add_argument(
        "--depth-output", type=Path, help="folder of the dense depth (default: <output>_depth)"
    )
    parser.add_argument("--no-depth", action="store_true", help="write no dense depth")
    parser.add_argument("--scenarios", type=_scenarios, default=default.scenarios, metavar="SPLIT=N,...",
                        help="scenarios per split (default: train=4,validate=1,test=1,test_culver_city=1)")  # fmt: skip
    parser.add_argument("--frames", type=int, default=default.frames, help="instants per scenario, 0.1 s apart "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--vehicles", type=_span, default=default.vehicles, metavar="FEWEST-MOST",
                        help="connected vehicles per scenario (default: 2-4)")  # fmt: skip
    parser.add_argument("--image-size", type=_size, default=default.image_size, metavar="WxH",
                        help="photograph size; the domain decides the field of view (default: 800x600)")  # fmt: skip
    parser.add_argument("--lidar-points", type=int, default=default.lidar_points,
                        help="LiDAR shots per beam and sweep (default: %(default)s)")  # fmt: skip
    parser.add_argument("--exposure-spread", type=float, default=default.exposure_spread,
                        help="spread of exposure between the cameras of a rig (default: %(default)s)")  # fmt: skip
    parser.add_argument("--distances", choices=DISTANCES, default=default.distances,
                        help="between vehicles; opv2v: as in OPV2V (default: %(default)s)")  # fmt: skip
    parser.add_argument("--domain", choices=DOMAIN_NAMES, default=default.domain,
                        help="kind of place, weather and rig (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="same seed, same bytes (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if args.no_depth and args.depth_output is not None:
        parser.error("--no-depth and --depth-output exclude each other")
    depth = None if args.no_depth else args.depth_output or args.output.with_name(args.output.name + "_depth")
    try:
        config = SyntheticConfig(
            seed=args.seed, image_size=args.image_size, scenarios=args.scenarios, frames=args.frames,
            vehicles=args.vehicles, lidar_points=args.lidar_points, exposure_spread=args.exposure_spread,
            distances=args.distances, domain=args.domain, workers=args.workers,
        )  # fmt: skip
        make_synthetic_opv2v(args.output, depth, config, progress=not args.quiet)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
