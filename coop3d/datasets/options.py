"""Command-line options that name frames and describe a panorama, the same for every script."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from coop3d.datasets.opv2v import AUTO, DEFAULT_CAMERAS, DEPTH_SOURCES, OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.geometry import PROJECTIONS
from coop3d.stitching import CENTRES, EXPOSURES, KINDS


def positive_int(text: str) -> int:
    """A whole number of at least 1, or argparse's error."""
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def add_root_options(parser: ArgumentParser) -> None:
    """Where a dataset lies."""
    parser.add_argument("--images-root", type=Path, required=True, help="folder that holds the splits")
    parser.add_argument("--depth-root", type=Path, help="folder of *_depth.npy files, if there are any")


def add_frame_options(parser: ArgumentParser) -> None:
    """Frames of a split; find them with `select_entries`."""
    add_root_options(parser)
    add = parser.add_argument
    add("--split", default="train", help="sub-folder of the roots (default: %(default)s)")
    add("--scenario", help="only this scenario")
    add("--agent", help="only this vehicle")
    add("--frame", help="only this frame, e.g. 000069")
    add("--index", type=int, help="the N-th frame of the split, instead of names")


def add_panorama_options(parser: ArgumentParser) -> None:
    """Where range comes from, the kind of panorama and its camera; read them with `recipe_of`."""
    add = parser.add_argument_group("panorama").add_argument
    add("--cameras", nargs="+", default=list(DEFAULT_CAMERAS), metavar="NAME",
        help="every frame must have these; or auto: those a frame has (default: camera0 to camera3)")  # fmt: skip
    add("--depth-source", choices=DEPTH_SOURCES, default="auto",
        help="where range comes from; auto: dense files where they are dense, else the own LiDAR "
        "(default: %(default)s)")  # fmt: skip
    add("--kind", choices=KINDS, default="rig", help="(default: %(default)s)")
    add("--projection", choices=sorted(PROJECTIONS), default="equirectangular", help="(default: %(default)s)")
    add("--width", type=positive_int, default=1008, help="in pixels (default: %(default)s)")
    add("--height", type=positive_int, help="in pixels (default: a quarter of the width)")
    add("--vertical-fov-deg", type=float, default=90.0, help="(default: %(default)s)")
    add("--elevation-center-deg", type=float, default=0.0, help="(default: %(default)s)")
    add("--centre", choices=CENTRES, default="lidar",
        help="where the panorama's frame lies (default: %(default)s)")  # fmt: skip
    add("--exposure", choices=EXPOSURES, default="as_is",
        help="matched: brightness evened out across seams (default: %(default)s)")  # fmt: skip


def open_index(args: Namespace, split: str) -> OPV2VIndex:
    """A split of what ``--images-root --depth-root --cameras`` name.

    Raises:
        DataError: there is no such split, or no usable frame in it.
    """
    cameras = AUTO if args.cameras == [AUTO] else tuple(args.cameras)
    needs_depth = args.depth_source == "dense"
    return OPV2VIndex(args.images_root, split, args.depth_root, cameras, needs_depth=needs_depth)


def recipe_of(args: Namespace) -> PanoramaRecipe:
    """The recipe that the options of `add_panorama_options` describe.

    Raises:
        ValueError: no such camera can exist.
    """
    camera = PROJECTIONS[args.projection](
        args.width, args.height or max(args.width // 4, 1), args.vertical_fov_deg, args.elevation_center_deg
    )
    return PanoramaRecipe(camera, args.depth_source, args.kind, args.centre, args.exposure)
