"""An index page of a folder of runs, newest first: pictures, pages and numbers of each."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.benchmark.gallery import write_gallery

EXAMPLES = """examples:
  python scripts/make_gallery.py                  # writes eval_runs/index.html
  python scripts/make_gallery.py outputs --title "Training runs"

An index.html that an earlier gallery did not write is left alone, unless --force is given.
"""

log = logging.getLogger("gallery")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("eval_runs"), help="(default: %(default)s)"
    )
    parser.add_argument("--title", default="Runs", help="title of the page (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite an index.html that is not a gallery")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        log.info("wrote %s", write_gallery(args.folder, args.title, force=args.force))
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
