"""Options by which the picture scripts name a model and its data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch


def add_run_arguments(parser: ArgumentParser) -> None:
    """``--checkpoint --config --override --split --cpu``."""
    add = parser.add_argument_group("model and data").add_argument
    add("--checkpoint", type=Path, help="a checkpoint, or its run's folder; without one, ground truth only")
    add("--config", type=Path,
        help="where the data are: a run's config.yaml, or configs/train.yaml (default: the checkpoint's)")  # fmt: skip
    add("--override", action="append", default=[], metavar="KEY=VALUE",
        help="change the config; repeatable")  # fmt: skip
    add("--split", default="test", help="train, val or test (default: %(default)s)")
    add("--cpu", action="store_true", help="do not use a GPU")


def device_of(args: Namespace) -> torch.device:
    """A GPU where there is one and it may be used."""
    return torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
