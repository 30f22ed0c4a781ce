"""Check a dataset before training: layout, calibration, depth, clouds, panoramas, distances between vehicles."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException

from coop3d.conf import ConfigError, compose
from coop3d.datasets import CooperativeDataset, DataError
from coop3d.datasets.doctor import examine_all
from coop3d.files import write_text, writing
from coop3d.training.launch import prepare_machine
from coop3d.visualization.doctor_page import write_doctor_html

EXAMPLES = """examples:
  python scripts/validate_opv2v_cyl_setup.py --hydra-overrides machine=demo dataset=opv2v_cyl_coop_demo
  python scripts/validate_opv2v_cyl_setup.py --num-samples 20 --splits train val test --output report.json \\
      --hydra-overrides machine=local3090 machine.opv2v_images_root=/data/opv2v

Exit status: 0 when every check holds, 1 otherwise.
"""


def _data_error(error: BaseException | None) -> DataError | None:
    while error is not None and not isinstance(error, DataError):
        error = error.__cause__
    return error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num-samples", type=int, default=5, help="instants per split (default: %(default)s)"
    )
    parser.add_argument("--splits", nargs="+", default=["train", "val", "test"], choices=["train", "val", "test"],
                        help="nodes of the dataset config (default: all)")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="log what is skipped and why")
    parser.add_argument("--output", type=Path, help="also write the report as JSON")
    parser.add_argument("--output-html", type=Path, help="also write the report as a page")
    parser.add_argument("--hydra-overrides", nargs="*", default=[], metavar="KEY=VALUE",
                        help="Hydra overrides as for scripts/train.py: machine=..., dataset=...")  # fmt: skip
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.ERROR, format="%(levelname)s %(message)s"
    )
    try:
        config = compose("train", args.hydra_overrides)
        prepare_machine(config)  # machine=demo makes its data
    except ConfigError as error:
        parser.error(str(error))

    def make_dataset(name: str) -> CooperativeDataset:
        try:
            return hydra.utils.instantiate(config.dataset[name])
        except InstantiationException as error:  # which wraps what is wrong with the data
            raise _data_error(error) or error from error

    reports = examine_all(make_dataset, args.splits, args.num_samples)
    print("\n".join(report.to_table() for report in reports))
    try:
        write_reports(args, [report.to_json() for report in reports])
    except OSError as error:
        sys.exit(f"OSError: {error}")
    return 0 if all(report.ok for report in reports) else 1


def write_reports(args: argparse.Namespace, reports: list[dict[str, Any]]) -> None:
    if args.output is not None:
        with writing(args.output, "--output"):
            write_text(args.output, json.dumps(reports, indent=2) + "\n")
    if args.output_html is not None:
        note = " ".join([*args.hydra_overrides, f"({args.num_samples} instants per split)"])
        with writing(args.output_html, "--output-html"):
            write_doctor_html(args.output_html, reports, note)


if __name__ == "__main__":
    sys.exit(main())
