"""The page of a whole scenario: a slider over its frames, fused clouds, trajectories; and the same as a video."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.datasets import DataError
from coop3d.files import writing
from coop3d.training.inspection.options import add_run_arguments, device_of
from coop3d.training.inspection.sample import open_dataset, open_run
from coop3d.training.inspection.scenario import scenario_frames, scenario_samples
from coop3d.training.launch import EXPECTED_ERRORS
from coop3d.visualization import (
    caption,
    frames_per_second,
    preset,
    render_scene,
    video_file,
    write_scenario_html,
    write_video,
)
from coop3d.visualization.point_sources import PointSources

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
        run, config = open_run(args.checkpoint, args.config, device_of(args), args.override)
        dataset = open_dataset(config, args.split, PointSources())
        indices = scenario_samples(dataset, args.scenario, args.stride, args.max_frames)
        title = dataset.keys_of(0, indices[0])[0].scenario
        frames = list(scenario_frames(dataset, args.split, indices, run, args.max_points, args.seed))
        bad = len(indices) - len(frames)
        if not frames:
            raise DataError(
                f"scenario {title}: none of its {bad} samples can be read, see the warnings above"
            )
        note = "ground truth" if run is None else f"{run.checkpoint}, step {run.step}"
        note = f"{note}, {args.split}, {len(frames)} frames" + (
            f", {bad} left out as unreadable" if bad else ""
        )
        with writing(args.output_html, "--output-html"):
            write_scenario_html(args.output_html, title, frames, note, args.max_points, args.fps)
        log.info("wrote %s (%.1f MB)", args.output_html, args.output_html.stat().st_size / 1e6)
        if args.video is not None:
            kind = "truth" if run is None else "predicted"
            viewpoint = preset(frames[0].scene, "oblique")  # moves with the reference
            pictures = (caption(render_scene(f.scene, viewpoint, kind), f"{title}  {f.name}") for f in frames)
            with writing(args.video, "--video"):
                write_video(args.video, pictures, args.fps)
            log.info("wrote %s", args.video)
    except (*EXPECTED_ERRORS, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if bad:
        log.warning("%d of %d samples could not be read and are left out", bad, len(indices))
    return 3 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
