"""Exports read back by other software: trimesh, the reader of OPV2V's clouds, plain parsers; COLMAP by its formulas."""

from __future__ import annotations

import importlib.util
import json
import struct
import urllib.request
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from support.analytic_panoramas import CAMERAS, POSES, batch, prediction

from coop3d.datasets.opv2v import read_pcd
from coop3d.geometry import CylindricalCamera, EquirectangularCamera, PinholeCamera, invert_rigid
from coop3d.visualization.export import (
    EXPORT_FORMATS,
    camera_of_rays,
    cut_pinholes,
    export_cloud,
    serve_viser,
    write_exports,
    write_glb,
    write_npz,
    write_pcd,
    write_ply,
    write_rrd,
)

FILES = tuple(f for f in EXPORT_FORMATS if f != "rrd")  # those that need no extra
HOSTILE = 'a b<script>\n"é/../x'


@pytest.fixture(scope="module")
def sample():
    return batch(("641", "650", HOSTILE))


@pytest.fixture(scope="module")
def cloud(sample):
    return export_cloud(sample.inputs, sample.targets, prediction(sample), sample.keys)


def test_the_cloud_holds_what_the_mask_keeps(sample, cloud):
    pred = prediction(sample)
    kept = (pred.non_ambiguous & sample.targets.covered)[0]
    assert len(cloud.points) == int(kept.sum())
    np.testing.assert_allclose(cloud.points, pred.points_ref[0][kept].numpy(), atol=1e-4)
    np.testing.assert_array_equal(np.bincount(cloud.vehicle), kept.sum(dim=(1, 2)).numpy())
    np.testing.assert_allclose(cloud.T_ref_view, pred.T_ref_view[0].numpy(), atol=1e-6)


def test_true_normals_are_turned_into_the_reference_frame(sample):
    exact = export_cloud(sample.inputs, sample.targets, None, sample.keys, "truth")
    assert exact.confidence is None
    road = np.abs(exact.points[:, 1] - 1.9) < 1e-3
    for vehicle in range(3):  # they head in different directions; the road is below each
        own = exact.normals[road & exact.of_vehicle(vehicle)]
        assert np.nanmean(own @ np.array([0.0, -1.0, 0.0]) > 0.999) > 0.95
    walls = ~road & np.isfinite(exact.normals).all(axis=1)
    # Vehicle 2 is turned by 2 degrees: only in the right frame its walls are the world's walls, along the axes.
    own = np.abs(exact.normals[walls & exact.of_vehicle(2)]).max(axis=1)
    assert np.mean(own > np.cos(np.radians(0.5))) > 0.8


def test_ply_through_trimesh(tmp_path, cloud):
    path = write_ply(tmp_path / "new" / "scene.ply", cloud)
    loaded = trimesh.load(path)
    np.testing.assert_allclose(loaded.vertices, cloud.points, atol=1e-6)
    np.testing.assert_array_equal(loaded.colors[:, :3], cloud.rgb)
    raw = loaded.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(raw["confidence"], cloud.confidence)
    np.testing.assert_array_equal(raw["vehicle"], cloud.vehicle)
    np.testing.assert_array_equal(raw["range_m"], cloud.range_m)
    normals = np.stack([raw["nx"], raw["ny"], raw["nz"]], axis=-1)
    np.testing.assert_array_equal(normals, np.nan_to_num(cloud.normals))
    header = path.read_bytes().split(b"end_header")[0].decode("ascii")
    assert "metres, frame of the reference panorama, x right, y down, z forward" in header
    assert 'comment vehicle 2: a b<script>?"?/../x\n' in header
    assert [p.name for p in path.parent.iterdir()] == ["scene.ply"]


def test_pcd_has_opv2v_axes(tmp_path, cloud):
    path = write_pcd(tmp_path / "scene.pcd", cloud)
    read = read_pcd(path)
    x, y, z = cloud.points.T
    np.testing.assert_allclose(read.xyz, np.stack([z, x, -y], axis=-1), atol=1e-6)  # forward, right, up
    np.testing.assert_allclose(read.intensity, cloud.rgb[:, 0] / 255, atol=1e-6)  # OPV2V's place for it
    body = path.read_bytes().split(b"DATA binary\n")[1]
    table = np.frombuffer(body, "<f4").reshape(len(cloud.points), 8)
    nx, ny, nz = cloud.normals.T
    np.testing.assert_allclose(table[:, 4:7], np.stack([nz, nx, -ny], axis=-1), atol=1e-6)
    np.testing.assert_array_equal(table[:, 7], cloud.confidence)


def test_pcd_in_another_frame(tmp_path, cloud):
    T = POSES[4].copy()  # turned by 90 degrees to the right and moved
    path = write_pcd(tmp_path / "scene.pcd", cloud, T)
    x, y, z = (cloud.points @ T[:3, :3].T + T[:3, 3]).T
    np.testing.assert_allclose(read_pcd(path).xyz, np.stack([z, x, -y], axis=-1), atol=1e-4)
    table = np.frombuffer(path.read_bytes().split(b"DATA binary\n")[1], "<f4").reshape(len(x), 8)
    nx, ny, nz = (cloud.normals @ T[:3, :3].T).T
    np.testing.assert_allclose(table[:, 4:7], np.stack([nz, nx, -ny], axis=-1), atol=1e-6)


def test_glb_stands_upright_and_looks_along_z(tmp_path, cloud):
    path = write_glb(tmp_path / "scene.glb", cloud)
    raw = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", raw[:12])
    assert (magic, version, length) == (b"glTF", 2, len(raw))
    size = struct.unpack("<I", raw[12:16])[0]
    names = [node.get("name") for node in json.loads(raw[20 : 20 + size])["nodes"]]
    assert {"vehicle_0_641", "vehicle_1_650", "vehicle_2_a_b_script_é_.._x"} <= set(names)
    scene = trimesh.load(path)
    for k, geometry in enumerate(scene.geometry[n] for n in sorted(scene.geometry)):
        own = cloud.of_vehicle(k)
        x, y, z = cloud.points[own].T
        np.testing.assert_allclose(geometry.vertices, np.stack([-x, -y, z], axis=-1), atol=1e-5)
        np.testing.assert_array_equal(geometry.colors[:, :3], cloud.rgb[own])


def test_npz_needs_no_pickle(tmp_path, cloud):
    T = POSES[1]
    with np.load(write_npz(tmp_path / "scene.npz", cloud, T), allow_pickle=False) as data:
        np.testing.assert_array_equal(data["points"], cloud.points)
        np.testing.assert_array_equal(data["normals"], cloud.normals)
        np.testing.assert_array_equal(data["T_world_ref"], T)
        assert data["names"].tolist() == list(cloud.names)
        assert "metres" in str(data["frame"])


# ---- COLMAP ----


def rows(path):
    return [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def model(tmp_path_factory, sample):
    exact = export_cloud(
        sample.inputs, sample.targets, prediction(sample, 0.0, 0.0), sample.keys, max_points=6000
    )
    folder = tmp_path_factory.mktemp("out")
    (written,) = write_exports(folder, "scene", ["colmap"], exact, sample.inputs, sample.targets)
    return written, exact


def colmap_pose(words):
    qw, qx, qy, qz, *t = map(float, words)
    return Rotation.from_quat([qx, qy, qz, qw]).as_matrix(), np.array(t)


def test_colmap_points_project_where_the_model_says(model):
    folder, cloud = model
    sparse = folder / "sparse" / "0"
    cameras = {int(r[0]): (r[1], *map(float, r[2:])) for r in rows(sparse / "cameras.txt")}
    points = {
        int(r[0]): (np.array(r[1:4], float), np.array(r[4:7], int), r[8:])
        for r in rows(sparse / "points3D.txt")
    }
    lines = (sparse / "images.txt").read_text().split("\n")
    observed, colours = 0, []
    for head, body in zip(lines[0:-1:2], lines[1::2], strict=True):
        number, *pose, camera, name = head.split()
        R, t = colmap_pose(pose)
        kind, width, height, fx, fy, cx, cy = cameras[int(camera)]
        picture = cv2.imread(str(folder / "images" / name))[..., ::-1]
        mask = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert kind == "PINHOLE"
        assert picture.shape[:2] == mask.shape == (height, width)
        triples = np.array(body.split(), float).reshape(-1, 3)
        for position, (u, v, point) in enumerate(triples):
            xyz, rgb, track = points[int(point)]
            x, y, z = R @ xyz + t
            assert abs(fx * x / z + cx - u) < 0.02
            assert abs(fy * y / z + cy - v) < 0.02
            assert [number, str(position)] == track[:2]
            assert mask[int(v), int(u)] == 255
            colours.append(np.abs(picture[int(v), int(u)].astype(int) - rgb).max())
        observed += len(triples)
    assert observed > 0.97 * len(cloud.points)
    assert np.median(colours) <= 2  # pictures show the points' colours, up to resampling at edges
    assert np.mean(np.array(colours) < 30) > 0.9


def test_colmap_cameras_stand_where_the_rig_has_them(model):
    folder, _ = model
    centres = []
    for line in (folder / "sparse/0/images.txt").read_text().split("\n")[0:-1:2]:
        R, t = colmap_pose(line.split()[1:8])
        centres.append(-R.T @ t)
    T_ref_world = invert_rigid(POSES[0])
    truth = np.concatenate(
        [CAMERAS @ (T_ref_world @ T)[:3, :3].T + (T_ref_world @ T)[:3, 3] for T in POSES[:3]]
    )
    assert len(centres) == len(truth) == 12
    distance = np.linalg.norm(np.array(centres)[:, None] - truth, axis=-1)
    assert distance.min(axis=1).max() < 1e-3
    assert distance.min(axis=0).max() < 1e-3


def test_colmap_rigs_repeat_the_poses_of_images(model):
    """A picture's pose is its sensor's pose in the rig times the rig's pose in its frame."""
    sparse = model[0] / "sparse" / "0"
    images = {
        line.split()[0]: colmap_pose(line.split()[1:8])
        for line in (sparse / "images.txt").read_text().split("\n")[0:-1:2]
    }
    frames = {r[1]: colmap_pose(r[2:9]) for r in rows(sparse / "frames.txt")}
    seen = 0
    for rig, count, _, reference, *sensors in rows(sparse / "rigs.txt"):
        R, t = frames[rig]
        np.testing.assert_allclose(images[reference][0], R, atol=1e-6)
        assert len(sensors) == 10 * (int(count) - 1)
        for k in range(0, len(sensors), 10):
            R_sensor, t_sensor = colmap_pose(sensors[k + 3 : k + 10])
            np.testing.assert_allclose(R_sensor @ R, images[sensors[k + 1]][0], atol=1e-6)
            np.testing.assert_allclose(R_sensor @ t + t_sensor, images[sensors[k + 1]][1], atol=1e-6)
            seen += 1
    assert seen == 9


def test_colmap_itself_reads_it(model):
    pycolmap = pytest.importorskip("pycolmap")
    reconstruction = pycolmap.Reconstruction(str(model[0] / "sparse" / "0"))
    assert len(reconstruction.images) == 12
    assert len(reconstruction.points3D) == len(model[1].points)


@pytest.mark.parametrize(
    "camera",
    [
        EquirectangularCamera(252, 63),
        EquirectangularCamera(128, 64, 120.0, -10.0),
        CylindricalCamera(252, 63, 80.0, 5.0),
        PinholeCamera(160, 120, 70.0, 75.0, 83.0, 58.0),
    ],
)
def test_the_camera_is_found_from_its_rays(camera):
    found = camera_of_rays(camera.rays().astype(np.float32))
    assert type(found) is type(camera)
    np.testing.assert_allclose(found.rays(), camera.rays(), atol=1e-5)


def test_rays_of_no_camera_are_refused():
    rays = EquirectangularCamera(64, 16).rays()[::-1]
    with pytest.raises(ValueError, match="those of no panorama"):
        camera_of_rays(rays)


def test_one_centre_of_projection_gives_four_pictures_that_see_everything():
    camera = EquirectangularCamera(504, 126)
    rays = camera.rays()
    image = np.round((rays * 0.5 + 0.5) * 255).astype(np.uint8)  # colour says direction
    cuts = cut_pinholes(image, rays, np.zeros_like(rays), np.ones(rays.shape[:2], bool))
    assert len(cuts) == 4
    seen = np.zeros(rays.shape[:2], bool)
    for cut in cuts:
        directions = cut.camera.rays() @ cut.T_view_cam[:3, :3].T
        error = np.abs(cut.image / 255 * 2 - 1 - directions)[cut.mask]
        assert error.max() < 0.03  # a grey level is 0.008; at the borders half a pixel is missing
        assert error.mean() < 0.003  # a shift by one pixel, 0.0125 rad, would be twice that
        seen |= cut.camera.project(rays @ cut.T_view_cam[:3, :3])[1]
    assert seen.all()


# ---- what must not break ----


def test_all_formats_at_once_with_hostile_names(tmp_path, sample, cloud):
    written = write_exports(tmp_path, "scene", FILES, cloud, sample.inputs)
    assert [p.name for p in written] == ["scene.ply", "scene.pcd", "scene.glb", "scene_colmap", "scene.npz"]
    inside = {p.resolve() for p in tmp_path.rglob("*")}
    assert all(p.is_relative_to(tmp_path.resolve()) for p in inside)
    folders = sorted(p.name for p in (tmp_path / "scene_colmap" / "images").iterdir())
    assert folders[:2] == ["0_641", "1_650"]
    assert len(folders) == 3
    assert not {"<", ">", " ", "\n", '"'} & set("".join(folders))
    with pytest.raises(ValueError, match="cannot export las; formats are ply"):
        write_exports(tmp_path, "scene", ["las"], cloud, sample.inputs)


def test_nothing_to_export_is_said(sample):
    pred = prediction(sample)
    masked = replace(pred, mask_logits=torch.full_like(pred.mask_logits, -1.0))
    with pytest.raises(ValueError, match="no predicted point to export"):
        export_cloud(sample.inputs, sample.targets, masked, sample.keys)
    broken = replace(pred, distance=torch.full_like(pred.distance, torch.nan))
    with pytest.raises(ValueError, match="no predicted point to export"):
        export_cloud(sample.inputs, None, broken, sample.keys)
    with pytest.raises(ValueError, match="truth points need targets"):
        export_cloud(sample.inputs, None, pred, sample.keys, "truth")


def test_a_vehicle_that_diverged_is_left_out(tmp_path, sample):
    pred = prediction(sample)
    trans = pred.trans.clone()
    trans[0, 1] = torch.nan
    cloud = export_cloud(sample.inputs, None, replace(pred, trans=trans), sample.keys)
    assert set(cloud.vehicle) == {0, 2}
    write_exports(tmp_path, "scene", FILES, cloud, sample.inputs)
    assert len(trimesh.load(tmp_path / "scene.glb").geometry) == 2
    assert len(list((tmp_path / "scene_colmap" / "images").iterdir())) == 2


@pytest.mark.parametrize("count", [1, 7])
def test_one_vehicle_and_seven(tmp_path, count):
    few = batch(tuple(str(k) for k in range(count)), width=128)
    cloud = export_cloud(few.inputs, few.targets, None, few.keys, "truth", max_points=2000, seed=3)
    again = export_cloud(few.inputs, few.targets, None, few.keys, "truth", max_points=2000, seed=3)
    assert len(cloud.points) == 2000
    np.testing.assert_array_equal(cloud.points, again.points)
    write_exports(tmp_path, "scene", FILES, cloud, few.inputs, few.targets)
    assert len(trimesh.load(tmp_path / "scene.glb").geometry) == count


def test_rerun_recording(tmp_path, cloud):
    if importlib.util.find_spec("rerun") is None:
        with pytest.raises(ValueError, match=r"pip install 'coop3d\[viewers\]'"):
            write_rrd(tmp_path / "scene.rrd", cloud)
        assert list(tmp_path.iterdir()) == []
        return
    path = write_rrd(tmp_path / "scene.rrd", cloud)
    assert path.read_bytes()[:3] == b"RRF"
    assert path.stat().st_size > 12 * len(cloud.points)  # three float32 a point
    assert [p.name for p in tmp_path.iterdir()] == ["scene.rrd"]


def test_viser_shows_every_vehicle(cloud):
    if importlib.util.find_spec("viser") is None:
        with pytest.raises(ValueError, match=r"pip install 'coop3d\[viewers\]'"):
            serve_viser(cloud)
        return
    server = serve_viser(cloud, port=18080)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}/", timeout=10) as page:
            assert page.status == 200
        shown = {name for name in server.scene._handle_from_node_name if name.endswith("/points")}
        assert len(shown) == len(cloud.names)
    finally:
        server.stop()
