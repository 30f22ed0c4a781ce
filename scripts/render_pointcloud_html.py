"""The 3D page of one cooperative sample: clouds, LiDAR, boxes, panoramas, scores; and exports for other programs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.files import safe_name
from coop3d.training.inspection.files import inspect_files
from coop3d.training.inspection.options import add_run_arguments, device_of
from coop3d.training.inspection.sample import Inspection, inspect_sample, open_dataset, open_run
from coop3d.training.inspection.summary import page_numbers, sample_summary, write_summary
from coop3d.training.launch import EXPECTED_ERRORS
from coop3d.visualization import (
    caption,
    grid,
    prediction_figure,
    preset,
    render_scene,
    save_png,
    save_view_pictures,
    write_scene_html,
)
from coop3d.visualization.export import EXPORT_FORMATS, serve_viser, write_exports
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

PICTURE_POINTS = 500_000  # of a render, which need not be sent to anybody's browser

log = logging.getLogger("pointcloud_page")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_input_arguments(parser)
    _add_point_arguments(parser)
    add = parser.add_argument_group("output").add_argument
    add("--output-dir", type=Path,
        help="page, renders, pictures and summary go here, named after scenario and frame")  # fmt: skip
    add("--output-html", type=Path,
        help="the page (default: in --output-dir, or pointcloud.html)")  # fmt: skip
    add("--output-png", type=Path, help="a picture: panoramas, range, error, mask, and a render of the cloud")
    add("--view-output-dir", type=Path, help="PNGs of every view: colour, range, error, mask")
    add("--debug-summary-json", type=Path, help="pose, scale and depth statistics (docs/visualization.md)")
    add("--export", nargs="+", default=[], choices=EXPORT_FORMATS, metavar="FORMAT",
        help=f"also write the points as {', '.join(EXPORT_FORMATS)}, beside the page")  # fmt: skip
    add("--viser", type=int, metavar="PORT",
        help="at last show every point in a viser viewer on this port, until Ctrl-C")  # fmt: skip
    return parser.parse_args()


def _add_input_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add = parser.add_argument_group("sample").add_argument
    add("--index", "--val-index", type=int, default=0, metavar="N",
        help="which sample of the split; --val-index is the same (default: %(default)s)")  # fmt: skip
    add("--data", type=Path, nargs="+", metavar="FILE",
        help="instead of a split: one panorama picture per vehicle, one OPV2V frame (.yaml) per vehicle, or a "
        "panorama cache (.h5), whose instant --index names; the first vehicle is the reference")  # fmt: skip


def _add_point_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("points").add_argument
    add("--point-pose-source", choices=POSES, default="pred",
        help="poses that place the points; input: as the vehicles report them (default: %(default)s)")  # fmt: skip
    add("--point-depth-source", choices=DEPTHS, default="pred",
        help="range along the rays; gt_sparse: LiDAR (default: %(default)s)")  # fmt: skip
    add("--point-scale-source", choices=SCALES, default="pred",
        help="gt: predictions scaled to the true median range (default: %(default)s)")  # fmt: skip
    add("--max-points", type=int, default=200_000,
        help="in all clouds of the page together, and in an export (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the subsampling (default: %(default)s)")
    add("--no-lidar", action="store_true", help="leave the LiDAR sweeps out")


def load(args: argparse.Namespace) -> tuple[Inspection, str, dict[str, object]]:
    """What to show, one line about where it comes from, and facts for the summary."""
    sources = PointSources(args.point_pose_source, args.point_depth_source, args.point_scale_source)
    if args.data and args.checkpoint is None:
        raise ValueError("--data has no ground truth to show: it needs a --checkpoint to predict with")
    run, config = open_run(args.checkpoint, args.config, device_of(args), args.override)
    note = "ground truth" if run is None else f"{run.checkpoint}, step {run.step}"
    facts = {
        "checkpoint": None if run is None else str(run.checkpoint),
        "step": None if run is None else run.step,
    }
    if args.data:
        assert run is not None
        if sources != PointSources():
            raise ValueError("--data has no ground truth: leave --point-*-source at pred")
        names = ", ".join(p.name for p in args.data)
        return inspect_files(args.data, run, args.index), f"{note}, {names}", facts
    dataset = open_dataset(config, args.split, sources)
    inspection = inspect_sample(dataset, args.split, args.index, run, sources, with_lidar=not args.no_lidar)
    return (
        inspection,
        f"{note}, {args.split} sample {args.index}",
        {**facts, "split": args.split, "index": args.index},
    )


def write_pictures(args: argparse.Namespace, inspection: Inspection, stem: str) -> None:
    """Every picture that was asked for."""
    if args.output_png is None and args.output_dir is None and args.view_output_dir is None:
        return
    scene = inspection.scene(max(args.max_points, PICTURE_POINTS), args.seed)
    kind = "truth" if inspection.shown is None else "predicted"
    oblique = render_scene(scene, preset(scene, "oblique"), kind)
    sample = (inspection.inputs, inspection.targets, inspection.shown)
    if args.output_png is not None:
        panels = prediction_figure(*sample, inspection.keys)
        save_png(
            args.output_png, grid([panels, caption(oblique, f"{kind} points of all vehicles")], columns=1)
        )
        log.info("wrote %s", args.output_png)
    if args.view_output_dir is not None:
        written = save_view_pictures(args.view_output_dir, *sample, inspection.keys)
        log.info("wrote %d pictures to %s", len(written), args.view_output_dir)
    if args.output_dir is not None:
        save_png(args.output_dir / f"{stem}_oblique.png", oblique)
        save_png(
            args.output_dir / f"{stem}_top.png", render_scene(scene, preset(scene, "top"), kind, "vehicle")
        )


def write_all(args: argparse.Namespace, inspection: Inspection, note: str, facts: dict[str, object]) -> None:
    """Page, pictures, numbers and exports."""
    stem = safe_name(inspection.stem)
    if args.output_dir is not None:
        args.view_output_dir = args.view_output_dir or args.output_dir / f"{stem}_views"
        args.debug_summary_json = args.debug_summary_json or args.output_dir / f"{stem}_summary.json"
    page = args.output_html or (
        args.output_dir / f"{stem}.html" if args.output_dir else Path("pointcloud.html")
    )
    scene = inspection.scene(args.max_points, args.seed)
    write_scene_html(page, scene, page_numbers(inspection), note)
    log.info("wrote %s (%.1f MB)", page, page.stat().st_size / 1e6)
    write_pictures(args, inspection, stem)
    if args.debug_summary_json is not None:
        write_summary(args.debug_summary_json, sample_summary(inspection, **facts))
        log.info("wrote %s", args.debug_summary_json)
    if args.export:
        around = inspection.surroundings
        for path in write_exports(
            page.parent, stem, args.export, inspection.cloud(args.max_points, args.seed), inspection.inputs,
            inspection.targets, T_lidar_ref=around.T_lidar_ref, T_world_ref=around.T_world_ref,
        ):  # fmt: skip
            log.info("wrote %s", path)
    if args.viser is not None:
        server = serve_viser(inspection.cloud(seed=args.seed), args.viser)
        log.info("http://localhost:%d shows all points; Ctrl-C ends it", server.get_port())
        server.sleep_forever()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        inspection, note, facts = load(args)
        write_all(args, inspection, note, facts)
    except (*EXPECTED_ERRORS, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
