"""Pictures of panoramas: colour, range with a bar in metres, source camera, every mask; a contact sheet; a video."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from coop3d.datasets.errors import DataError
from coop3d.datasets.options import (
    add_frame_options,
    add_panorama_options,
    open_index,
    positive_int,
    recipe_of,
)
from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.datasets.selection import select_entries
from coop3d.files import writing
from coop3d.types import Panorama
from coop3d.visualization import (
    contact_sheet,
    frames_per_second,
    panorama_figure,
    panorama_video_frame,
    save_png,
    video_file,
    write_video,
)

EXAMPLES = """examples:
  # six frames spread over the split, and a contact sheet of them
  python scripts/opv2v_panorama_preview.py --images-root data/synthetic_opv2v \\
      --depth-root data/synthetic_opv2v_depth --split train --max-frames 6 --output-dir previews

  # one vehicle at one instant, range from the LiDARs of all vehicles
  python scripts/opv2v_panorama_preview.py --images-root /data/OPV2V --split test --depth-source fused \\
      --scenario 2021_08_18_19_48_05 --agent 1045 --frame 000068 --output-dir previews

  # a video of one vehicle through its scenario (.mp4 or .gif)
  python scripts/opv2v_panorama_preview.py --images-root /data/OPV2V --split test \\
      --scenario 2021_08_18_19_48_05 --agent 1045 --max-frames 100 --video drive.mp4 --output-dir previews

Exit status: 0 finished; 1 an error; 3 finished, but some frames could not be used and are left out (they are named).
"""

log = logging.getLogger("panorama_preview")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_frame_options(parser)
    add_panorama_options(parser)
    parser.add_argument("--max-frames", type=positive_int, default=6,
                        help="matching frames to draw, spread evenly (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--video",
        type=video_file,
        help="instead of pictures: an .mp4 or .gif of the frames, in the output folder",
    )
    parser.add_argument(
        "--fps",
        type=frames_per_second,
        default=10.0,
        help="frames per second of the video (default: %(default)s)",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the files")
    return parser.parse_args()


@dataclass
class Stitched:
    """Panoramas of those frames that can be used, one at a time; the others are named in warnings and counted."""

    index: OPV2VIndex
    entries: Sequence[FrameEntry]
    recipe: PanoramaRecipe
    bad: int = 0

    def __iter__(self) -> Iterator[Panorama]:
        stitch = self.recipe.stitcher()
        for entry in tqdm(self.entries, "stitching", disable=len(self.entries) < 10):
            try:
                panorama = stitch(self.recipe.load_frame(entry, self.index.partners_of(entry)))
            except DataError as error:
                log.warning("%s left out: %s", entry.key, error)
                self.bad += 1
                continue
            yield panorama
        if self.bad == len(self.entries):
            raise DataError(f"none of the {self.bad} frames can be used, see the warnings above")


def write_pictures(folder: Path, panoramas: Iterable[Panorama]) -> None:
    """Each as soon as it is stitched, and a contact sheet of all."""
    drawn = []
    for panorama in panoramas:
        path = folder / f"{'_'.join(panorama.key)}.png"
        with writing(path, "--output-dir"):
            save_png(path, panorama_figure(panorama))
        log.info("wrote %s", path)
        drawn.append(panorama)
    path = folder / "contact_sheet.png"
    with writing(path, "--output-dir"):
        save_png(path, contact_sheet(drawn))
    log.info("wrote %s", path)


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        index = open_index(args, args.split)
        names = (args.scenario, args.agent, args.frame)
        entries = select_entries(index.frames, *names, index=args.index, at_most=args.max_frames)
        panoramas = Stitched(index, entries, recipe_of(args))
        if args.video:
            path = args.output_dir / args.video
            with writing(path, "--output-dir or --video"):
                write_video(path, map(panorama_video_frame, panoramas), args.fps)
            log.info("wrote %s", path)
        else:
            write_pictures(args.output_dir, panoramas)
    except (DataError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if panoramas.bad:
        log.warning("%d of %d frames could not be used and are left out", panoramas.bad, len(entries))
    return 3 if panoramas.bad else 0


if __name__ == "__main__":
    sys.exit(main())
