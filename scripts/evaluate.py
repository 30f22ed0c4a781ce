"""Evaluate a checkpoint: ``python scripts/evaluate.py checkpoint=RUN/checkpoint-best.pth split=test``."""

from __future__ import annotations

import logging
import sys

from omegaconf import DictConfig

from coop3d.conf import hydra_main, require_complete
from coop3d.training.evaluate import EvaluationOptions, evaluate_run
from coop3d.training.launch import EXPECTED_ERRORS


@hydra_main("evaluate")
def main(cfg: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        require_complete(cfg)
        options = EvaluationOptions(
            split=cfg.split,
            max_samples=cfg.max_samples,
            baseline_samples=cfg.baseline_samples,
            batch=cfg.batch,
            num_workers=cfg.num_workers,
            device=cfg.device,
        )
        result = evaluate_run(cfg.checkpoint, cfg.output_dir, options, list(cfg.overrides))
    except (*EXPECTED_ERRORS, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"\n{result.table}\nWritten to {result.folder}/")


if __name__ == "__main__":
    main()
