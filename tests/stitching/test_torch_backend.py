"""Two back ends, one result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.analytic import render_rig, street, vehicle_pose

from coop3d.geometry import CylindricalCamera, EquirectangularCamera
from coop3d.stitching import PanoramaStitcher, TorchStitcher

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "camera",
    [EquirectangularCamera(504, 126), CylindricalCamera(252, 63, 80.0)],
    ids=["equirect", "cylinder"],
)
def test_batches_agree_with_single_frames(camera, device):
    rng = np.random.default_rng(0)
    frames = []
    for yaw, slope in [(25.0, (4.0, -7.0)), (-100.0, (0.0, 3.0))]:
        frame = render_rig(street(slope), vehicle_pose(1.0, -2.0, yaw, slope), size=(400, 300))
        noise = rng.integers(0, 256, (4, 300, 400, 3), dtype=np.uint8)  # the hardest image for interpolation
        views = tuple(replace(v, image=i) for v, i in zip(frame.views, noise, strict=True))
        frames.append(replace(frame, views=views))
    stitcher = PanoramaStitcher(camera)
    batch = TorchStitcher(stitcher.table(frames[0]), device)(
        torch.from_numpy(np.stack([[v.image for v in f.views] for f in frames])).to(device),
        torch.from_numpy(np.stack([[v.z_m for v in f.views] for f in frames])).to(device),
    )
    for i, frame in enumerate(frames):
        panorama = stitcher(frame)
        difference = np.abs(batch.rgb[i].cpu().numpy().astype(int) - panorama.rgb)
        assert difference.max() <= 1
        for name in ("valid", "non_ambiguous", "mask_known"):
            assert (getattr(batch, name)[i].cpu().numpy() == getattr(panorama, name)).mean() > 0.9999, name
        both = batch.valid[i].cpu().numpy() & panorama.valid
        assert both.sum() > 1000
        assert np.abs(batch.range_m[i].cpu().numpy() - panorama.range_m)[both].max() < 1e-3


def test_without_depth_only_the_uncovered_is_known():
    frame = render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60), with_depth=False)
    stitcher = PanoramaStitcher(EquirectangularCamera(504, 126))
    batch = TorchStitcher(stitcher.table(frame))(
        torch.from_numpy(np.stack([v.image for v in frame.views]))[None]
    )
    panorama = stitcher(frame)
    np.testing.assert_array_equal(batch.mask_known[0].numpy(), panorama.mask_known)
    assert not batch.valid.any()
