"""Robustness of a checkpoint: ``python scripts/evaluate_robustness.py checkpoint=RUN contract=FILE output_dir=DIR``."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from coop3d.benchmark.journal import FolderError
from coop3d.benchmark.robustness import RobustnessOptions, evaluate_robustness, listing, write_robustness_page
from coop3d.conf import hydra_main, require_complete
from coop3d.evaluation.contracts import ContractError
from coop3d.training.launch import EXPECTED_ERRORS


def options_of(cfg: DictConfig) -> RobustnessOptions:
    """The options of the config; both have the same names."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    names = values["disturbances"]
    values["disturbances"] = (names,) if isinstance(names, str) else tuple(map(str, names))
    return RobustnessOptions(
        **{f.name: values[f.name] for f in fields(RobustnessOptions) if f.name in values}
    )


@hydra_main("evaluate_robustness", flags=("contract",))
def main(cfg: DictConfig) -> None:
    is_main = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if is_main else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        require_complete(cfg)
        options = options_of(cfg)
        found = evaluate_robustness(cfg.checkpoint, cfg.output_dir, options, list(cfg.overrides))
        page = write_robustness_page(found) if options.report and is_main else None
    except (*EXPECTED_ERRORS, ContractError, FolderError, OSError, ValueError) as error:
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")
    if is_main:
        print(f"\n{found.table}\nWritten to {found.folder}/" + (f"; open {page}" if page else ""))


if __name__ == "__main__":
    if "--list" in sys.argv[1:]:
        print(listing())
    else:
        main()
