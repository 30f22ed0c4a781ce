"""A trained toy run and its evaluation: a second of work with everything real but the sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from support.toy_run import make_trainer

from coop3d.benchmark import EvaluationOptions
from coop3d.training.launch import plain

TOY: dict[str, Any] = {"_target_": "support.toy_run.ToyDataset"}
CONFIG: dict[str, Any] = {
    "machine": {"opv2v_images_root": "/nowhere", "opv2v_depth_root": None},
    "model": {"_target_": "support.toy_run.ToyModel", "dropout": 0.3},
    "dataset": {
        "train": {**TOY, "size": 12},
        "val": {**TOY, "size": 6},
        "test": {**TOY, "size": 10, "bad": [3]},
    },
    "train_params": {"precision": "auto", "tf32": False},
}
FAST = ("reference", "mean", "row", "ground", "gnss", "truth")  # toy pictures have no features


def train_toy(run_dir: Path, dataset: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Train the toy model; its checkpoint describes ``dataset``."""
    trainer = make_trainer(run_dir, dropout=0.3, **changes)
    trainer.config = plain(OmegaConf.create({**CONFIG, "dataset": dataset or CONFIG["dataset"]}))
    trainer.fit()
    return run_dir


def opv2v_dataset(
    images: Path, depth: Path | None, kind: str = "panoramas", **sampling: Any
) -> dict[str, Any]:
    """Config nodes train, val, test over one split on disk."""
    files = {"images_root": str(images), "depth_root": None if depth is None else str(depth), "split": "test"}
    if kind == "panoramas":
        camera = {"_target_": "coop3d.geometry.EquirectangularCamera", "width": 56, "height": 14}
        source = {
            "_target_": "coop3d.datasets.panorama_source",
            **files,
            "camera": camera,
            "depth_source": "auto",
            "centre": "lidar",
        }
    else:
        source = {"_target_": "coop3d.datasets.PinholeViews", **files, "width": 28, "height": 21}
    node = {
        "_target_": "coop3d.datasets.CooperativeDataset",
        "source": source,
        "sampling": {"_target_": "coop3d.datasets.VehicleSampling", "max_distance_m": None, **sampling},
    }
    return {"train": node, "val": node, "test": node}


def options(**changes: Any) -> EvaluationOptions:
    """On the CPU, without loader processes."""
    return EvaluationOptions(**{"num_workers": 0, "device": "cpu", "baselines": FAST, **changes})


def rows_written(folder: Path) -> dict[str, bytes]:
    """Content of every file of rows and summaries."""
    patterns = ("per_frame*.csv", "per_sample*.csv", "trajectory*.csv", "summary*.json")
    return {p.name: p.read_bytes() for pattern in patterns for p in sorted(folder.glob(pattern))}
