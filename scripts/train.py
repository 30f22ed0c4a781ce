"""Train a model: ``python scripts/train.py machine=demo dataset=opv2v_cyl_coop_demo model=tiny``.

Under torchrun (see bash_scripts/train/opv2v_cyl_coop.sh) every process runs this script.
"""

from __future__ import annotations

from omegaconf import DictConfig

from coop3d.conf import hydra_main
from coop3d.training.launch import train_from_config


@hydra_main("train")
def main(cfg: DictConfig) -> None:
    train_from_config(cfg)


if __name__ == "__main__":
    main()
