"""The 3D page of one cooperative sample: clouds, LiDAR, boxes, panoramas, scores; and exports for other programs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.training.inspection.chosen import choose
from coop3d.training.inspection.options import add_run_arguments, device_of
from coop3d.training.inspection.outputs import Outputs
from coop3d.training.launch import EXPECTED_ERRORS
from coop3d.visualization.export import EXPORT_FORMATS, serve_viser
from coop3d.visualization.point_sources import DEPTHS, POSES, SCALES, PointSources

EXAMPLES = """examples:
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run/checkpoint-best.pth --split test --index 0

  # page, renders, pictures of every view, numbers and exports in one folder
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run --split test --index 3 \\
      --output-dir eval_runs/my_run --export ply pcd glb colmap npz

  # which factor is to blame? Predicted range at the true poses and scale
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run --point-pose-source gt --point-scale-source gt

  # ground truth alone, no checkpoint
  python scripts/render_pointcloud_html.py --config configs/train.yaml --split val --index 0 \\
      --override machine=demo --override dataset=opv2v_cyl_coop_demo

  # files without ground truth: panorama pictures, OPV2V frames of one instant, or a panorama cache
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run --data car1.png car2.png

The page is one file and needs no network: open it from disk, or serve its folder with "python -m http.server".
"""

log = logging.getLogger("pointcloud_page")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_input_arguments(parser)
    _add_point_arguments(parser)
    add = parser.add_argument_group("output").add_argument
    add("--output-dir", type=Path,
        help="page, renders, pictures and summary go here, named after scenario, frame and reference")  # fmt: skip
    add("--output-html", type=Path,
        help="the page (default: in --output-dir, or pointcloud.html)")  # fmt: skip
    add("--output-png", type=Path, help="a picture: panoramas, range, error, mask, and a render of the cloud")
    add("--view-output-dir", type=Path, help="PNGs of every view: colour, range, error, mask")
    add("--debug-summary-json", type=Path, help="pose, scale and depth statistics (docs/visualization.md)")
    add("--export", nargs="+", default=[], choices=EXPORT_FORMATS, metavar="FORMAT",
        help=f"also write the points as {', '.join(EXPORT_FORMATS)}, beside the page")  # fmt: skip
    add("--viser", type=int, metavar="PORT",
        help="finally show all points in a viser viewer on this port, until Ctrl-C")  # fmt: skip
    return parser.parse_args()


def _add_input_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add = parser.add_argument_group("sample").add_argument
    add("--index", "--val-index", type=int, default=0, metavar="N",
        help="which sample of the split; --val-index is the same (default: %(default)s)")  # fmt: skip
    add("--data", type=Path, nargs="+", metavar="FILE",
        help="instead of a split: one panorama picture per vehicle, one OPV2V frame (.yaml) per vehicle of one "
        "instant, or a cache (.h5) of panoramas as the model's, whose instant --index names; the first vehicle is "
        "the reference")  # fmt: skip


def _add_point_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("points").add_argument
    add("--point-pose-source", choices=POSES, default="pred",
        help="poses that place the points; input: as the vehicles report them (default: %(default)s)")  # fmt: skip
    add("--point-depth-source", choices=DEPTHS, default="pred",
        help="range along the rays; gt_sparse: LiDAR (default: %(default)s)")  # fmt: skip
    add("--point-scale-source", choices=SCALES, default="pred",
        help="gt: predictions scaled to the true median range (default: %(default)s)")  # fmt: skip
    add("--max-points", type=int, default=200_000,
        help="of the whole page, LiDAR included, and of an export (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="random seed of the subsampling (default: %(default)s)")
    add("--no-lidar", action="store_true", help="leave the LiDAR sweeps out")


def outputs(args: argparse.Namespace) -> Outputs:
    return Outputs(
        folder=args.output_dir,
        page=args.output_html,
        picture=args.output_png,
        views=args.view_output_dir,
        summary=args.debug_summary_json,
        formats=args.export,
        max_points=args.max_points,
        seed=args.seed,
    )


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        sources = PointSources(args.point_pose_source, args.point_depth_source, args.point_scale_source)
        chosen = choose(
            args.checkpoint, args.config, device_of(args), args.override, split=args.split, index=args.index,
            data=args.data or (), sources=sources, with_lidar=not args.no_lidar,
        )  # fmt: skip
        outputs(args).write(chosen)
        if args.viser is not None:
            server = serve_viser(chosen.inspection.cloud(seed=args.seed), args.viser)
            log.info("http://localhost:%d shows all points; Ctrl-C ends it", server.get_port())
            server.sleep_forever()
    except (*EXPECTED_ERRORS, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
