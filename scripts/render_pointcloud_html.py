"""The 3D page of one cooperative sample as a trained model sees it: predicted and true clouds, panoramas, scores."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from coop3d.datasets import BadSample, collate_coop
from coop3d.evaluation import MaskCounts, ViewRow, evaluate_batch
from coop3d.training.data import CoopDataset
from coop3d.training.launch import EXPECTED_ERRORS
from coop3d.training.run import load_run
from coop3d.types import CoopBatch
from coop3d.visualization import (
    caption,
    grid,
    prediction_figure,
    preset,
    render_scene,
    save_png,
    scene_from_prediction,
    write_scene_html,
)

EXAMPLES = """examples:
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run/checkpoint-best.pth --split test --index 0

  # on a machine without GPU, data somewhere else, and a picture beside the page
  python scripts/render_pointcloud_html.py --checkpoint outputs/my_run --cpu --output-html out/scene.html \\
      --output-png out/scene.png --override machine.opv2v_images_root=/data/OPV2V

The page is one file and needs no network: open it from disk, or serve its folder with "python -m http.server".
"""

log = logging.getLogger("pointcloud_page")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint, or its run's folder")
    parser.add_argument("--split", default="test", help="train, val or test (default: %(default)s)")
    parser.add_argument(
        "--index", type=int, default=0, help="which sample of the split (default: %(default)s)"
    )
    parser.add_argument(
        "--output-html", type=Path, default=Path("pointcloud.html"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--output-png",
        type=Path,
        help="also a picture: panoramas, predicted and true range, predicted cloud",
    )
    parser.add_argument(
        "--max-points", type=int, default=200_000, help="in all clouds together (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the subsampling (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the run's config; repeatable",
    )
    return parser.parse_args()


def load_sample(dataset: CoopDataset, split: str, index: int) -> CoopBatch:
    """One collated sample; ValueError where there is none."""
    if not 0 <= index < len(dataset):
        raise ValueError(f"--index {index} is outside the {len(dataset)} samples of {split}")
    sample = dataset[0, index]
    if isinstance(sample, BadSample):
        raise ValueError(f"sample {index} of {split} cannot be read: {sample.reason}")
    batch = collate_coop([sample]).batch
    assert batch is not None, "a good sample collates to a batch"
    return batch


def frame_numbers(rows: list[ViewRow]) -> dict[str, object]:
    """The scores of one sample, one column per score and one row per vehicle."""
    columns = {
        "distance [m]": "distance_m",
        "translation error [m]": "translation_error_m",
        "rotation error [deg]": "rotation_error_deg",
        "scale error (1 = right)": "scale_error",
        "AbsRel": "abs_rel",
        "range RMSE [m]": "rmse_m",
    }
    names = [row.agent if not row.is_reference else f"{row.agent} (reference)" for row in rows]
    table: dict[str, object] = {
        title: {name: getattr(row, field) for name, row in zip(names, rows, strict=True)}
        for title, field in columns.items()
    }
    counts = [MaskCounts(row.mask_tp, row.mask_fp, row.mask_fn, row.mask_tn) for row in rows]
    table["mask IoU"] = {name: count.iou for name, count in zip(names, counts, strict=True)}
    return table


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    try:
        run = load_run(args.checkpoint, device, args.override)
        batch = load_sample(run.dataset(args.split), args.split, args.index)
        with torch.inference_mode():
            prediction = run.model(batch.inputs.to(device)).to("cpu")
        scene = scene_from_prediction(
            batch.inputs, batch.targets, prediction, batch.keys, max_points=args.max_points, seed=args.seed
        )
        numbers = frame_numbers(evaluate_batch(prediction, batch.targets, batch.keys))
        numbers["predicted metric scale [m per unit]"] = float(prediction.scale[0])
    except (*EXPECTED_ERRORS, ValueError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    note = f"{run.checkpoint}, step {run.step}, {args.split} sample {args.index}"
    write_scene_html(args.output_html, scene, numbers, note)
    log.info("wrote %s (%.1f MB)", args.output_html, args.output_html.stat().st_size / 1e6)
    if args.output_png is not None:
        panels = prediction_figure(batch.inputs, batch.targets, prediction, batch.keys)
        cloud = render_scene(scene, preset(scene, "oblique"))
        save_png(
            args.output_png, grid([panels, caption(cloud, "Predicted points of all vehicles")], columns=1)
        )
        log.info("wrote %s", args.output_png)


if __name__ == "__main__":
    main()
