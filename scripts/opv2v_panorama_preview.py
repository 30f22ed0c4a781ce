"""Pictures of stitched panoramas: colour, range with a colour bar in metres, source camera and every mask."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import OPV2VIndex, load_rig_frame
from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher
from coop3d.visualization import add_frame_arguments, contact_sheet, panorama_figure, save_png, select_entries

EXAMPLES = """examples:
  # six frames spread over the split, and a contact sheet of them
  python scripts/opv2v_panorama_preview.py --images-root data/synthetic_opv2v \\
      --depth-root data/synthetic_opv2v_depth --split train --max-frames 6 --output-dir previews

  # one vehicle at one instant
  python scripts/opv2v_panorama_preview.py --images-root /data/OPV2V --split test \\
      --scenario 2021_08_18_19_48_05 --agent 1045 --frame 000068 --output-dir previews
"""

log = logging.getLogger("panorama_preview")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_frame_arguments(parser)
    parser.add_argument(
        "--max-frames",
        type=int,
        default=6,
        help="matching frames to draw, spread evenly (default: %(default)s)",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the PNG files")
    args = parser.parse_args()
    if args.max_frames < 1:
        parser.error(f"--max-frames is {args.max_frames}, expected at least 1")
    return args


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        index = OPV2VIndex(args.images_root, args.split, args.depth_root)
        names = (args.scenario, args.agent, args.frame)
        entries = select_entries(index.frames, *names, index=args.index, at_most=args.max_frames)
        stitch = PanoramaStitcher(EquirectangularCamera(args.width, args.width // 4))
        panoramas = [stitch(load_rig_frame(entry)) for entry in entries]
    except (DataError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for panorama in panoramas:
        path = args.output_dir / f"{'_'.join(panorama.key)}.png"
        save_png(path, panorama_figure(panorama))
        log.info("wrote %s", path)
    save_png(args.output_dir / "contact_sheet.png", contact_sheet(panoramas))
    log.info("wrote %s", args.output_dir / "contact_sheet.png")


if __name__ == "__main__":
    main()
