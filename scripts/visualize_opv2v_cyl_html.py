"""A zoomable page of one stitched panorama; hovering shows azimuth, elevation, range and camera of a pixel."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.datasets.errors import DataError
from coop3d.datasets.options import add_frame_options, add_panorama_options, open_index, recipe_of
from coop3d.datasets.selection import select_entries
from coop3d.files import writing
from coop3d.visualization import write_panorama_html

EXAMPLES = """examples:
  python scripts/visualize_opv2v_cyl_html.py --images-root data/synthetic_opv2v \\
      --depth-root data/synthetic_opv2v_depth --split train --index 0 --output-html panorama.html

  # a true cylinder (rows linear in the tangent of elevation) of a named frame
  python scripts/visualize_opv2v_cyl_html.py --images-root /data/OPV2V --split test --projection cylindrical \\
      --scenario 2021_08_18_19_48_05 --agent 1045 --frame 000068 --output-html panorama.html

  # range from the LiDARs of all vehicles of the instant
  python scripts/visualize_opv2v_cyl_html.py --images-root /data/OPV2V --split test --index 0 --depth-source fused

The page is one file and needs no network: open it from disk, or serve its folder with "python -m http.server".
"""

log = logging.getLogger("panorama_page")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_frame_options(parser)
    add_panorama_options(parser)
    parser.add_argument(
        "--output-html", type=Path, default=Path("panorama.html"), help="(default: %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        index = open_index(args, args.split)
        (entry,) = select_entries(index.frames, args.scenario, args.agent, args.frame, args.index)
        recipe = recipe_of(args)
        panorama = recipe.stitcher()(recipe.load_frame(entry, index.partners_of(entry)))
        note = f"{args.projection}, {args.split}, depth source {args.depth_source}"
        with writing(args.output_html, "--output-html"):
            write_panorama_html(args.output_html, panorama, note)
    except (DataError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    log.info("wrote %s (%.1f MB)", args.output_html, args.output_html.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
