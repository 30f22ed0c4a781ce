"""The rival of panoramas as its config says: files, photographs in the vehicle's frame, model, losses, scores."""

from __future__ import annotations

import pytest
import torch
from support.opv2v_files import write_dataset

from coop3d.conf import build, compose
from coop3d.datasets import CooperativeDataset, collate_coop
from coop3d.evaluation import score_batch, summarise

FUSED = ["dataset=opv2v_pinhole_fused", "model.panorama.fuse_cameras=true"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    positions = ((0.0, 0.0, 0.0), (3.0, 12.0, 160.0), (-3.0, -9.0, 5.0))
    return write_dataset(tmp_path_factory.mktemp("opv2v"), frames=1, positions=positions, size=(160, 120))


def config(roots, *overrides: str):
    common = [
        "machine=demo",
        f"machine.opv2v_images_root={roots[0]}",
        f"machine.opv2v_depth_root={roots[1]}",
        "model=small",
        "train_params=demo",
        "model.panorama.wrap_around=false",
        "model.panorama.cameras_per_vehicle=4",
        "dataset.view_width=64",
        "dataset.view_height=48",
        "dataset.train.sampling.vehicles=3",
    ]
    return compose("train", [*common, *overrides])


@pytest.mark.parametrize("loss", ["match_loss", "cyl_loss"])
def test_a_training_step_and_its_scores(roots, loss):
    torch.manual_seed(0)
    cfg = config(roots, *FUSED, f"loss={loss}")
    dataset, model, loss_function = build(cfg, "dataset.train"), build(cfg, "model"), build(cfg, "loss")
    assert isinstance(dataset, CooperativeDataset)
    batch = collate_coop([dataset[0], dataset[(1, 0)]]).batch
    assert batch.inputs.shape == (2, 12, 48, 64)
    model.train()
    output = loss_function(model(batch.inputs), batch.targets)
    output.total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(bool(g.isfinite().all()) for g in gradients.values())
    assert all(n in gradients for n, p in model.named_parameters() if "matching" not in n and p.requires_grad)
    if loss == "match_loss":
        assert float(output.scalars()["matching/found"]) > 0.05
        assert float(gradients["matching_head.out.weight"].norm()) > 0
    with torch.no_grad():
        prediction = model.eval()(batch.inputs)
    rows, samples = score_batch(prediction, batch.targets, batch.keys, points=True)
    summary = summarise(rows, samples)
    assert summary["pose/count"] == 4  # two other vehicles in two samples
    assert summary["views"] == 24
    assert summary["mask/iou"] >= 0
    assert samples[0].points.true > 0


def test_photographs_in_their_cameras_frames_are_refused(roots):
    cfg = config(roots, "dataset=opv2v_pinhole_coop", "model.panorama.fuse_cameras=true", "loss=match_loss")
    batch = build(cfg, "dataset.train")[0].batch
    with pytest.raises(ValueError, match="use dataset=opv2v_pinhole_fused"):
        build(cfg, "model")(batch.inputs)
