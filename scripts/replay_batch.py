"""Run the micro-batches of a failed step again: ``python scripts/replay_batch.py outputs/run/failures/step_000123``.

Prints the loss with its terms, the first module whose output is not finite, and the gradients that are not.
"""

from __future__ import annotations

import argparse
import sys

from coop3d.training.failures import replay


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="failures/step_<n> of a run directory")
    parser.add_argument("--device", default="cpu", help="cpu (float32) or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), help="default: as in the run")
    arguments = parser.parse_args()
    try:
        for result in replay(arguments.folder, arguments.device, arguments.precision):
            print(result)
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
