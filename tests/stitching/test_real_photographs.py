"""Real OPV2V photographs, where they lie beside the project: neighbours agree across the seams."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.analytic import CAMERAS, LIDAR, mount

from coop3d.datasets.opv2v import read_image
from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.stitching import PanoramaStitcher
from coop3d.types import CameraView, RigFrame, SampleKey

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "opv2v_real"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared/opv2v_real beside the project")


def real_rig(frame: str, order=("camera0", "camera1", "camera2", "camera3")) -> RigFrame:
    views = []
    for name, photograph in zip(CAMERAS, order, strict=True):
        image = read_image(FOLDER / f"contributer_641_{frame}_{photograph}.png")
        pose = np.linalg.inv(mount(*LIDAR)) @ mount(*CAMERAS[name])
        camera = PinholeCamera.from_hfov(800, 600, 100.0)
        views.append(CameraView(name=name, camera=camera, T_rig_cam=pose, image=image))
    return RigFrame(key=SampleKey("real", "641", frame), views=tuple(views), T_world_rig=np.eye(4))


def agreement(rig: RigFrame, side: int) -> float:
    """Correlation of the back photograph with a side one over far directions that both see."""
    camera = EquirectangularCamera(1440, 120, 30.0, 12.0)  # above the horizon: far trees, roofs, sky
    rays = camera.rays()
    samples = []
    for k in (3, side):
        view = rig.views[k]
        uv, inside = view.camera.project(rays @ view.T_rig_cam[:3, :3])
        grey = cv2.GaussianBlur(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY), (0, 0), 3).astype(np.float32)
        x, y = (np.nan_to_num(uv[..., i] - 0.5, nan=-9).astype(np.float32) for i in (0, 1))
        samples.append((cv2.remap(grey, x, y, cv2.INTER_LINEAR), inside))
    both = samples[0][1] & samples[1][1]
    assert both.sum() > 1000
    return float(np.corrcoef(samples[0][0][both], samples[1][0][both])[0, 1])


@pytest.mark.parametrize("frame", ["000759", "000767", "000775"])
def test_back_and_side_photographs_agree_and_sides_are_not_swapped(frame):
    right = real_rig(frame)
    swapped = real_rig(frame, ("camera0", "camera2", "camera1", "camera3"))
    found = [agreement(right, 1), agreement(right, 2)]
    wrong = [agreement(swapped, 1), agreement(swapped, 2)]
    assert min(found) > 0.6, found
    assert np.mean(found) > np.mean(wrong) + 0.3, (found, wrong)


def test_coverage_of_a_real_rig():
    panorama = PanoramaStitcher()(real_rig("000759"))
    assert panorama.covered.mean() == pytest.approx(0.857, abs=0.003)
    assert panorama.rgb[panorama.covered].mean() > 60
