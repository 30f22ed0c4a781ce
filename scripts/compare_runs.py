"""Compare evaluations on the same samples: one page, one CSV, one table, with intervals and significant winners."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coop3d.benchmark import ResultError, read_result
from coop3d.benchmark.compare import WEIGHTS, compare_results
from coop3d.benchmark.compare_page import comparison_text, write_comparison
from coop3d.evaluation import HEADLINE
from coop3d.evaluation.contracts import ContractError
from coop3d.files import writing

EXAMPLES = """examples:
  python scripts/compare_runs.py eval_runs/panoramas eval_runs/pinholes
  python scripts/compare_runs.py eval_runs/a eval_runs/b eval_runs/c --output eval_runs/a_b_c --baselines

  # checkpoints of one run, evaluated in one call: which to keep, and whether to train longer
  python scripts/compare_runs.py eval_runs/all_checkpoints --weights pose/translation_m/median=2 range/abs_rel=1
"""


def weight(text: str) -> tuple[str, float]:
    key, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not equals or not number > 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected SCORE=WEIGHT with a positive weight")
    return key, number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="output_dir of scripts/evaluate.py")
    add("--output", type=Path, default=Path("comparison"),
        help="folder of compare.html and compare.csv (default: %(default)s)")  # fmt: skip
    add("--keys", nargs="+", default=list(HEADLINE), metavar="SCORE", help="names in summary.json")
    add("--weights", nargs="+", type=weight, default=list(WEIGHTS.items()), metavar="SCORE=WEIGHT",
        help=f"weights that choose a checkpoint (default: {' '.join(f'{k}={w:g}' for k, w in WEIGHTS.items())})",
    )  # fmt: skip
    add("--baselines", action="store_true", help="also show the first evaluation's baselines")
    add("--allow-different-contracts", action="store_true",
        help="compare only the common samples, and say so in the output")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        results = [read_result(folder) for folder in args.folders]
        found = compare_results(
            results, args.keys, dict(args.weights), args.allow_different_contracts, args.baselines
        )
        with writing(args.output, "--output"):
            path = write_comparison(found, results, args.output)
    except (ResultError, ContractError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{comparison_text(found)}\n\nWritten to {args.output}/; open {path}")


if __name__ == "__main__":
    main()
