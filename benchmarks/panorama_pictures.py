"""Pictures for docs/panoramas.md: one vehicle of a synthetic town as every kind of panorama beside the truth.

The truth is rendered from the panorama's own centre, where no camera of a real vehicle stands.

python benchmarks/panorama_pictures.py --output docs/images/panorama_kinds.png

With a folder of OPV2V photographs without YAML (``*_{frame}_camera{0..3}.png``), the nominal rig stitches those:
python benchmarks/panorama_pictures.py --photographs FOLDER --output outputs/real.png
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from coop3d.datasets import StitchedPanoramas
from coop3d.datasets.opv2v import read_image
from coop3d.datasets.synthetic import Scenario, SyntheticConfig, build_scenario, make_synthetic_opv2v, sensors
from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.geometry.carla import carla_to_opencv, opencv_to_carla
from coop3d.geometry.transforms import invert_rigid
from coop3d.stitching import PanoramaStitcher
from coop3d.types import CameraView, Panorama, RigFrame, SampleKey
from coop3d.visualization import RANGE_SCALE, caption, grid
from coop3d.visualization.figures import range_image, with_bar

CAMERA = EquirectangularCamera(1008, 252)
SHRINK, MAGNIFY = 0.6, 1.8  # of pictures and of text: at 900 pixels' width, text is still 14 pixels high
ROWS = [  # title, kind, depth source
    ("rig (default): each pixel from its own camera, no depth needed for colour", "rig", "dense"),
    ("central, moved through dense depth: exact, with parallax holes", "central", "dense"),
    (
        "central_infinite: the rig's pixels, taken as if from the centre; metres off",
        "central_infinite",
        "dense",
    ),
    ("central, assuming flat ground and a far field; range from the own LiDAR", "central", "lidar"),
    ("rig, range from the own LiDAR", "rig", "lidar"),
    ("rig, range from the LiDARs of three vehicles, occlusion-tested", "rig", "fused"),
]


def truth(scenario: Scenario, frame: RigFrame) -> Panorama:
    """Rendered by eight cameras that stand at the panorama's centre."""
    size, views = (800, 600), []
    for k in range(8):
        turn = np.eye(4)
        turn[:3, :3] = cv2.Rodrigues(np.array([0.0, np.radians(45.0 * k), 0.0]))[0]
        T_world_camera = opencv_to_carla(frame.T_world_rig @ turn)
        bgr, z_m = sensors.render_camera(scenario.instant(0), T_world_camera, size, int(frame.key.agent))
        views.append(
            CameraView(
                name=f"camera{k}", camera=PinholeCamera.from_hfov(*size, 100.0), T_rig_cam=turn,
                image=np.ascontiguousarray(bgr[..., ::-1]), z_m=np.where(z_m > 0, z_m, np.nan).astype(np.float32),
            )
        )  # fmt: skip
    return PanoramaStitcher(CAMERA)(replace(frame, views=tuple(views), depth_is_dense=True, sweeps=()))


def row(title: str, panorama: Panorama) -> np.ndarray:
    """Colour and range side by side under a title."""
    ranges = with_bar(_small(range_image(panorama.range_m)), RANGE_SCALE, MAGNIFY)
    return caption(np.concatenate([_small(panorama.rgb), ranges], axis=1), title, MAGNIFY)


def _small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=SHRINK, fy=SHRINK, interpolation=cv2.INTER_AREA)


def kinds(seed: int) -> np.ndarray:
    """The figure of one synthetic vehicle."""
    config = SyntheticConfig(seed=seed, scenarios={"train": 1}, frames=1, vehicles=(3, 3))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_synthetic_opv2v(root / "images", root / "depth", config, progress=False)
        rows = []
        for title, kind, depth_source in ROWS:
            source = StitchedPanoramas(
                root / "images", "train", CAMERA, root / "depth", depth_source=depth_source, kind=kind
            )
            frame = source.load_frame(source.index.frames[0])
            rows.append(row(title, source.stitcher(frame)))
    scenario = build_scenario(seed, "train", 0, frames=1, vehicles=(3, 3))
    rows.insert(1, row("truth from the panorama's centre", truth(scenario, frame)))
    return grid(rows, columns=1)


def real(folder: Path, frames: int) -> np.ndarray:
    """Photographs on the nominal rig: as they are, with matched exposure, and on assumed ground."""
    paths = sorted(folder.glob("*_camera0.png"))
    if not paths:
        raise SystemExit(f"{folder}: no *_camera0.png; expected photographs of cameras 0 to 3")
    rows = []
    for path in paths[:frames]:
        views = []
        for k in range(4):
            T_lidar_camera = np.linalg.inv(sensors.T_vehicle_lidar()) @ sensors.T_vehicle_camera(k)
            views.append(
                CameraView(
                    name=f"camera{k}", camera=PinholeCamera.from_hfov(800, 600, 100.0),
                    T_rig_cam=carla_to_opencv(T_lidar_camera),
                    image=read_image(path.with_name(path.name.replace("_camera0", f"_camera{k}"))),
                )
            )  # fmt: skip
        key = SampleKey("photographs", "0", path.stem)
        frame = RigFrame(key=key, views=tuple(views), T_world_rig=invert_rigid(np.eye(4)))
        for title, settings in (
            ("as they are", {}), ("matched exposure", {"exposure": "matched"}), ("assumed ground", {"kind": "central"})
        ):  # fmt: skip
            picture = _small(PanoramaStitcher(CAMERA, **settings)(frame).rgb)
            rows.append(caption(picture, f"{path.stem}: {title}"))
    return grid(rows, columns=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--photographs", type=Path, help="folder of OPV2V photographs")
    parser.add_argument("--frames", type=int, default=3, help="of the photographs (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    figure = kinds(args.seed) if args.photographs is None else real(args.photographs, args.frames)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(figure).quantize(256).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
