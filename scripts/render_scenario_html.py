"""The page of a whole scenario: a slider over its frames, fused clouds, trajectories; and the same as a video."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.files import writing
from coop3d.training.inspection.options import add_run_arguments, device_of
from coop3d.training.inspection.scenario import choose_scenario
from coop3d.training.launch import EXPECTED_ERRORS
from coop3d.visualization import frames_per_second, video_file

EXAMPLES = """examples:
  python scripts/render_scenario_html.py --checkpoint outputs/my_run --split test --scenario 2021_08_20_21_10_24

  # every fifth frame, at most 60 of them, and a video beside the page
  python scripts/render_scenario_html.py --checkpoint outputs/my_run --stride 5 --max-frames 60 \\
      --output-html eval_runs/my_run/scenario.html --video eval_runs/my_run/scenario.mp4

  # ground truth alone
  python scripts/render_scenario_html.py --config configs/train.yaml --override machine=demo \\
      --override dataset=opv2v_cyl_coop_demo --split test

Exit status: 0 finished; 1 an error; 3 finished, but some samples could not be read and are left out (they are named).
"""

log = logging.getLogger("scenario_page")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    add = parser.add_argument
    add("--scenario", help="name of the scenario (default: the one with the most samples)")
    add("--stride", type=int, default=1, help="take every N-th sample (default: %(default)s)")
    add("--max-frames", type=int, help="maximum number of frames (default: all)")
    add(
        "--max-points",
        type=int,
        default=1_000_000,
        help="points of all frames together (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="random seed of the subsampling (default: %(default)s)")
    add("--fps", type=frames_per_second, default=10.0,
        help="frames per second of page and video (default: %(default)s, as OPV2V records)")  # fmt: skip
    add("--output-html", type=Path, default=Path("scenario.html"), help="(default: %(default)s)")
    add("--video", type=video_file, help="also a video: .mp4 or .gif")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        chosen = choose_scenario(
            args.checkpoint, args.config, device_of(args), args.override, split=args.split, scenario=args.scenario,
            stride=args.stride, max_frames=args.max_frames, max_points=args.max_points, seed=args.seed,
        )  # fmt: skip
        with writing(args.output_html, "--output-html"):
            chosen.write_page(args.output_html, args.fps)
        if args.video is not None:
            with writing(args.video, "--video"):
                chosen.write_video(args.video, args.fps)
    except (*EXPECTED_ERRORS, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if chosen.left_out:
        samples = chosen.left_out + len(chosen.frames)
        log.warning("%d of %d samples could not be read and are left out", chosen.left_out, samples)
    return 3 if chosen.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
