"""Evaluate checkpoints: ``python scripts/evaluate.py checkpoint=RUN/checkpoint-best.pth split=test``."""

from __future__ import annotations

from omegaconf import DictConfig

from coop3d.benchmark import EvaluationOptions, evaluate_run, write_report
from coop3d.benchmark.command import run_evaluation
from coop3d.conf import hydra_main


@hydra_main("evaluate", flags=("frames_json",))
def main(cfg: DictConfig) -> None:
    run_evaluation(cfg, EvaluationOptions, evaluate_run, lambda found: write_report(found.result))


if __name__ == "__main__":
    main()
