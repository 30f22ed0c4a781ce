"""Make one small file of a trained model: half-precision weights with their config, without optimiser state."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coop3d.benchmark.checkpoints import checkpoint_file, file_sha256
from coop3d.training.publish import publish_checkpoint

EXAMPLES = """examples:
  python scripts/publish_checkpoint.py outputs/my_run weights/my_model.pth

  # with an option of inference that was chosen after training
  python scripts/publish_checkpoint.py outputs/my_run weights/my_model.pth \\
      --override model.pred_head.matching.min_support=3

The file opens wherever a checkpoint does:
  python scripts/evaluate.py checkpoint=weights/my_model.pth split=test
  python scripts/render_pointcloud_html.py --checkpoint weights/my_model.pth --split test --index 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint-*.pth, or a run's folder (its best one)")
    parser.add_argument("output", type=Path, help="the file; an existing one is not replaced")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                        help="change of the config saved with the run; may be repeated")  # fmt: skip
    args = parser.parse_args()
    if args.output.exists():
        sys.exit(f"{args.output} exists; remove it first, or give another name")
    try:
        size = publish_checkpoint(checkpoint_file(args.checkpoint), args.output, args.override)
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{args.output}: {size / 1e6:.1f} MB, sha256 {file_sha256(args.output)}")


if __name__ == "__main__":
    main()
