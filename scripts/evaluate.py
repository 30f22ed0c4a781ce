"""Evaluate checkpoints: ``python scripts/evaluate.py checkpoint=RUN/checkpoint-best.pth split=test``."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from coop3d.benchmark import EvaluationOptions, ResultError, evaluate_run, write_report
from coop3d.benchmark.journal import FolderError
from coop3d.conf import hydra_main, require_complete
from coop3d.evaluation.contracts import ContractError
from coop3d.training.launch import EXPECTED_ERRORS


def options_of(cfg: DictConfig) -> EvaluationOptions:
    """The options of the config; both have the same names."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return EvaluationOptions(
        **{f.name: values[f.name] for f in fields(EvaluationOptions) if f.name != "baselines"},
        baselines=tuple(values["baselines"]),
    )


@hydra_main("evaluate", flags=("frames_json",))
def main(cfg: DictConfig) -> None:
    is_main = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if is_main else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        require_complete(cfg)
        options = options_of(cfg)
        checkpoint: Any = OmegaConf.to_container(cfg).get("checkpoint")  # type: ignore[union-attr]
        evaluation = evaluate_run(checkpoint, cfg.output_dir, options, list(cfg.overrides))
        page = write_report(evaluation.result) if options.report and is_main else None
    except (
        *EXPECTED_ERRORS,
        ContractError,
        FolderError,
        ResultError,
        OSError,
        ValueError,
    ) as error:
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")
    if is_main:
        print(f"\n{evaluation.table}\nWritten to {evaluation.folder}/" + (f"; open {page}" if page else ""))


if __name__ == "__main__":
    main()
