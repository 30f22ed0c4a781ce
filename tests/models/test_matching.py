"""Convolutional stem, matching head, and poses from matches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from support.analytic_panoramas import batch, prediction
from support.matched import position_errors, with_place_codes
from support.small_model import PANORAMA, small_model, small_values
from torch.utils._python_dispatch import TorchDispatchMode

from coop3d.geometry import EquirectangularCamera, invert_rigid
from coop3d.geometry.cells import CellGrid
from coop3d.geometry.ray_alignment import RayPoints, align
from coop3d.geometry.transforms import rotation_from_vector
from coop3d.models import MapAnything, MapAnythingConfig, from_mapping, mapanything, matched_pose
from coop3d.models.checkpoints import load_checkpoint
from coop3d.models.config import MatchingConfig
from coop3d.models.matched_pose import _align, _Cells, pose_from_matches
from coop3d.models.published import canonical_state
from coop3d.training.distributed import set_backend_flags
from coop3d.training.state import load_model_state
from coop3d.types import ViewInputs

MATCHING = {"dim": 6, "hidden_dim": 8}
STEM = {"patch_size": 16, "stem_dims": [6, 8]}
GRID = (21, 84)  # cells of 3 x 3 pixels


def matching_model(stem: bool = True, **matching):
    sections = {
        "panorama": PANORAMA,
        "pred_head": {"matching": {**MATCHING, **matching}, "group_norm": True},
        "encoder": STEM if stem else {},
    }
    return small_model(**sections)


def panoramas(P: int, B: int = 1, V: int = 2, h: int = 2, w: int = 4) -> ViewInputs:
    g = torch.Generator().manual_seed(1)
    H, W = P * h, P * w
    rays = torch.from_numpy(EquirectangularCamera(W, H).rays().copy()).float().expand(B, V, H, W, 3)
    return ViewInputs(
        image=torch.rand(B, V, 3, H, W, generator=g), rays=rays, origins=torch.randn(rays.shape, generator=g)
    )


@pytest.mark.parametrize("stem", [True, False])
def test_descriptors_lie_on_the_grid_of_cells_and_roll_with_the_panorama(stem):
    P = 16 if stem else 14
    model, inputs = matching_model(stem).double(), panoramas(P)._map(torch.Tensor.double)
    turned = replace(
        inputs,
        image=inputs.image.roll(P, -1),
        rays=inputs.rays.roll(P, -2),
        origins=inputs.origins.roll(P, -2),
    )
    model.train()  # as in training: no pose from matches, which are random here
    with torch.no_grad():
        a, b = model(inputs), model(turned)
    assert a.descriptors.shape == (1, 2, 4, 8, 6)
    assert a.seen_logits.shape == (1, 2, 4, 8)
    torch.testing.assert_close(b.descriptors, a.descriptors.roll(2, 3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(b.seen_logits, a.seen_logits.roll(2, 3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(b.distance, a.distance.roll(P, 3), atol=1e-5, rtol=1e-4)


def test_a_temperature_without_a_dimension_fits(tmp_path):
    """As earlier code saved it, and the published weights hold it; FSDP takes no scalars."""
    source = matching_model()
    state = source.state_dict()
    (name,) = (n for n in state if n.endswith("log_temperature"))
    assert state[name].shape == (1,)
    earlier = {**state, name: torch.tensor(1.5)}
    for load in (lambda m: m.load_state_dict(earlier), lambda m: load_model_state(m, earlier)):
        model = matching_model()
        load(model)
        assert model.state_dict()[name].tolist() == [1.5]
    assert canonical_state(earlier)[name].tolist() == [1.5]


def test_without_the_options_nothing_is_added():
    plain = {name for name, _ in small_model(panorama=PANORAMA).named_parameters()}
    more = {name for name, _ in matching_model(stem=False).named_parameters()}
    assert plain < more
    assert all(n.startswith("matching_head.") or ".norm." in n for n in more - plain)
    assert small_model(panorama=PANORAMA)(panoramas(14)).descriptors is None


def test_a_few_views_at_a_time_and_mixed_scenes_give_the_same():
    model = matching_model(pose=False)
    two, three = panoramas(16, V=2), panoramas(16, V=3)
    with torch.no_grad():
        whole, parts = model(three), model(three, views_at_once=1)
        mixed = model.forward_mixed([two, three])
    for got in (parts, mixed[1]):
        torch.testing.assert_close(got.descriptors, whole.descriptors, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.seen_logits, whole.seen_logits, atol=1e-4, rtol=1e-4)


def test_configuration_errors_name_the_key():
    with pytest.raises(ValueError, match=r"encoder\.patch_size is 14, but 2 levels .* make patches of 16"):
        from_mapping(MapAnythingConfig, small_values(encoder={"stem_dims": [6, 8]}))
    with pytest.raises(ValueError, match=r"pred_head\.matching\.dim is 0"):
        from_mapping(MapAnythingConfig, small_values(pred_head={"matching": {"dim": 0}}))


def test_published_weights_fit_a_model_with_a_matching_head(tmp_path):
    torch.manual_seed(0)
    published = small_model()
    torch.save({"model": published.state_dict()}, tmp_path / "weights.pth")
    values = small_values(pred_head={"matching": MATCHING})
    with torch.device("meta"):
        model = MapAnything(from_mapping(MapAnythingConfig, values))
    report = load_checkpoint(model, tmp_path / "weights.pth")
    assert report.fresh == ("matching_head",)
    assert float(model.matching_head.log_temperature.detach().exp()) == pytest.approx(10.0)
    for module in model.matching_head.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.testing.assert_close(module.weight.detach(), torch.ones_like(module.weight))
            torch.testing.assert_close(module.bias.detach(), torch.zeros_like(module.bias))
    inputs = panoramas(14)
    with torch.no_grad():
        torch.testing.assert_close(
            model.train()(inputs).distance, published(inputs).distance, atol=1e-5, rtol=1e-5
        )


# ---- poses


def seen_world(agents: tuple[str, ...], blind: tuple[int, ...] = ()):
    """The truth, and a prediction of right matches and wrong regressed poses."""
    truth = batch(agents)
    return truth, with_place_codes(prediction(truth, noise=0.0, shift_m=25.0), truth, GRID, blind)


def test_matches_replace_wrong_poses():
    truth, p = seen_world(("641", "650", "659"))
    assert float((p.T_ref_view - truth.targets.T_ref_view)[0, 1:, :3, 3].norm(dim=-1).min()) > 20
    found = pose_from_matches(p, MatchingConfig())
    assert float(position_errors(found, truth).max()) < 0.5
    turn = found.T_ref_view[0, :, :3, :3].mT @ truth.targets.T_ref_view[0, :, :3, :3]
    assert float((3 - turn.diagonal(dim1=-2, dim2=-1).sum(-1)).max()) < 1e-3
    assert bool((found.pose_support[0, 1:] > 3).all())
    torch.testing.assert_close(found.T_ref_view[0, 0], torch.eye(4))


def sphere_seen_twice(T: torch.Tensor, radius_m: float, wrap: bool) -> list[_Cells]:
    """10 x 40 cells of rigs at the centre, the second one at pose T; descriptors are alike up to some half a cell."""
    H, W = 10, 40
    rays = torch.from_numpy(EquirectangularCamera(W, H).rays().copy()).float().flatten(0, 1)
    cell = 2 * torch.pi / W
    cameras = torch.tensor([[0.0, 0.0, 1.5], [1.0, 0.3, 0.0], [0.0, 0.0, -1.5], [-1.0, 0.3, 0.0]])
    origins = cameras[(torch.atan2(rays[:, 0], rays[:, 2]) / (torch.pi / 2)).round().long() % 4]
    along = (origins * rays).sum(-1)
    points = RayPoints(origins, rays, (along**2 - origins.square().sum(-1) + radius_m**2).sqrt() - along)
    waves = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)) / (2 * cell * radius_m)
    views = []
    for pose in (torch.eye(4), T):
        phase = points.points @ pose[:3, :3].T @ waves
        codes = (phase.cos() + phase.sin()) * (12 / 256) ** 0.5
        views.append(_Cells(points, codes, torch.ones(H * W), cell, CellGrid(H, W, wrap)))
    return views


@pytest.mark.parametrize("wrap", [True, False])
def test_matches_are_more_exact_than_cells(wrap, monkeypatch):
    """Turned by 0.4 cells about a skew axis: the best cell of the other view is that of the same number."""
    T, cell, radius_m = torch.eye(4), 2 * torch.pi / 40, 20.0
    T[:3, :3] = rotation_from_vector(torch.tensor([0.2, 0.3, -0.2]) * cell)
    a, b = sphere_seen_twice(T, radius_m, wrap)
    matches = []
    monkeypatch.setattr(matched_pose, "align", lambda *given: matches.append(given) or align(*given))

    def apart(a: RayPoints, b: RayPoints) -> float:
        """Cells between the places of matched points, median."""
        return float((a.points - b.points @ T[:3, :3].T).norm(dim=-1).median()) / (radius_m * cell)

    found = _align(a, b, MatchingConfig())
    assert apart(*matches[0][:2]) < 0.15
    assert (
        len(matches[0][2]) <= 2 * 400
    )  # peaks from either side; of all pairs, 1500 have the weight to count
    turn = found.T_a_b[:3, :3].T @ T[:3, :3]
    assert float((3 - turn.trace()).clamp_min(0).sqrt()) < 0.1 * cell
    monkeypatch.setattr(_Cells, "between", lambda self, cells, _: self.points.pick(cells))
    _align(a, b, MatchingConfig())
    assert apart(*matches[1][:2]) > 0.3  # of whole cells


@pytest.mark.parametrize("wrap", [True, False])
def test_matches_cross_the_borders_of_images_that_wrap(wrap, monkeypatch):
    asked = []
    monkeypatch.setattr(mapanything, "pose_from_matches", lambda p, *options: asked.append(options) or p)
    sections = {"panorama": {**PANORAMA, "wrap_around": wrap}, "pred_head": {"matching": MATCHING}}
    model = small_model(**sections)
    with torch.no_grad():
        model(panoramas(14))
    assert asked == [(model.config.pred_head.matching, 1, wrap)]


def test_poses_from_matches_know_no_half_precision(monkeypatch):
    """A 3x3 inverse in bfloat16 does not exist on a GPU, where evaluation runs under autocast."""
    _, p = seen_world(("641", "650"))
    inverse, seen = torch.linalg.inv_ex, set()

    def watched(x):
        seen.add((x.dtype, torch.get_float32_matmul_precision()))
        return inverse(x)

    monkeypatch.setattr(torch.linalg, "inv_ex", watched)
    expected = pose_from_matches(p, MatchingConfig())
    set_backend_flags(tf32=True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = pose_from_matches(p, MatchingConfig())
        assert torch.get_float32_matmul_precision() == "high"  # as before
    finally:
        set_backend_flags(tf32=False)
    assert seen == {(torch.float32, "highest")}
    torch.testing.assert_close(found.T_ref_view, expected.T_ref_view, rtol=0, atol=0)


class Waits(TorchDispatchMode):
    """Counts operations whose answer a GPU's host waits for."""

    ASKING = ("_local_scalar_dense", "nonzero", "_linalg_check_errors", "masked_select", "linalg_matrix_exp")

    def __init__(self) -> None:
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.count[name] += name in self.ASKING or by_mask
        return func(*args, **(kwargs or {}))


def test_aligning_two_views_asks_the_device_for_three_numbers():
    """How many matches count, how many have a weight, which hypothesis wins; beside that each view's size of a cell."""
    _, p = seen_world(("641", "650", "659"))
    with Waits() as waits:
        found = pose_from_matches(p, MatchingConfig())
    assert bool((found.pose_support[0, 1:] > 3).all())  # all three pairs were refined
    on_host = waits.count.pop("index")  # the pairs drawn, by a mask of the host's own
    assert on_host == 2 * 3
    assert +waits.count == {"_local_scalar_dense": 3 * 3 + 3}


def test_a_vehicle_without_matches_keeps_its_regressed_pose():
    truth, p = seen_world(("641", "650", "659"), blind=(2,))
    found = pose_from_matches(p, MatchingConfig(min_support=10.0))
    assert float(found.pose_support[0, 2]) == 0
    torch.testing.assert_close(found.T_ref_view[0, 2], p.T_ref_view[0, 2])
    assert float(position_errors(found, truth)[1]) < 0.5


def test_vehicles_out_of_sight_are_joined_by_a_third():
    """The reference (0) and vehicle 2 share no descriptors; both share some with vehicle 1."""
    truth, p = seen_world(("641", "650", "659"))
    d = p.descriptors.clone()
    # Room for a code of its own in every pair: 0-1 match on the first half of channels, 1-2 on the second.
    first, second = d.clone(), d.clone()
    first[:, 2], second[:, 0] = 0, 0
    found = pose_from_matches(replace(p, descriptors=torch.cat([first, second], dim=-1)), MatchingConfig())
    assert float(position_errors(found, truth).max()) < 1.0
    T_12 = invert_rigid(found.T_ref_view[0, 1]) @ found.T_ref_view[0, 2]
    expected = invert_rigid(truth.targets.T_ref_view[0, 1]) @ truth.targets.T_ref_view[0, 2]
    torch.testing.assert_close(T_12[:3, 3], expected[:3, 3], atol=0.5, rtol=0)


def test_training_predicts_the_regressed_pose_and_evaluation_says_where_poses_come_from():
    model, inputs = matching_model(min_support=1e9), panoramas(16)
    with torch.no_grad():
        trained, evaluated = model.train()(inputs), model.eval()(inputs)
    assert trained.pose_support is None
    assert float(evaluated.pose_support.abs().max()) == 0  # nothing reaches such a support
    torch.testing.assert_close(evaluated.trans, trained.trans, atol=1e-5, rtol=1e-4)
