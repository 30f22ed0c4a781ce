"""Learning curves of one or several training runs as a picture, for machines without TensorBoard."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from coop3d.benchmark.training_curves import PANELS, plot_training

EXAMPLES = """examples:
  python scripts/plot_training.py outputs/my_run                      # writes outputs/my_run/curves.png
  python scripts/plot_training.py outputs/a outputs/b --output a_and_b.png
  python scripts/plot_training.py outputs/my_run --metrics loss/mask pose/15-30m/translation_m/median
"""

log = logging.getLogger("curves")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="directories with a log.jsonl")
    add("--output", type=Path, help="PNG (default: curves.png in the first run)")
    add(
        "--metrics",
        nargs="+",
        metavar="KEY",
        help=f"of log.jsonl (default: what there is of {', '.join(PANELS)})",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    output = args.output or args.runs[0] / "curves.png"
    try:
        drawn = plot_training(args.runs, output, args.metrics)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    log.info("wrote %s: %s", output, ", ".join(drawn))


if __name__ == "__main__":
    main()
