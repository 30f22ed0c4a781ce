"""Robustness of a checkpoint: ``python scripts/evaluate_robustness.py checkpoint=RUN contract=FILE output_dir=DIR``."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from coop3d.benchmark.command import run_evaluation
from coop3d.benchmark.robustness import RobustnessOptions, evaluate_robustness, listing, write_robustness_page
from coop3d.conf import hydra_main


@hydra_main("evaluate_robustness", flags=("contract",))
def main(cfg: DictConfig) -> None:
    run_evaluation(cfg, RobustnessOptions, evaluate_robustness, write_robustness_page)


if __name__ == "__main__":
    if "--list" in sys.argv[1:]:
        print(listing())
    else:
        main()
