"""Terms about several vehicles, scale, height, teachers and weights that change: each against numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from support.analytic_panoramas import batch, prediction
from support.configs import composed
from support.random_views import perfect_prediction, random_prediction, random_targets

from coop3d.geometry import invert_rigid, matrix_to_quat, transform_from_quat_trans
from coop3d.losses import (
    ConsistencyTerm,
    DistillationTerm,
    HeightPriorTerm,
    MaskWatch,
    MedianScaleTerm,
    MetricPoseTerm,
    MetricRangeTerm,
    PiecewiseLinear,
    PoseTerm,
    Scene,
    SignedPairTerm,
    WeightedSum,
)
from coop3d.losses.consistency import pick_pixels
from coop3d.losses.pose import pair_poses
from coop3d.types import ViewTargets


def two_vehicles(ahead_m: float = 20.0, vehicles: tuple[int, int] = (0, 1)) -> ViewTargets:
    """View 1 straight ahead of view 0, same heading."""
    targets = random_targets(B=1, V=2)
    T = torch.eye(4).double().repeat(1, 2, 1, 1)
    T[0, 1, 2, 3] = ahead_m
    return replace(targets, T_ref_view=T, vehicle=torch.tensor(vehicles))


# ---- pairs


def test_pair_poses_are_those_of_the_matrices():
    targets = random_targets(B=2, V=3)
    T = targets.T_ref_view
    apart = ~torch.eye(3, dtype=torch.bool)
    quat, trans = pair_poses(matrix_to_quat(T[..., :3, :3]) * 1.7, T[..., :3, 3], apart)  # of any length
    for i in range(3):
        for j in range(3):
            expected = T[:, i] if i == j else torch.from_numpy(invert_rigid(T[:, i].numpy())) @ T[:, j]
            torch.testing.assert_close(transform_from_quat_trans(quat[:, i, j], trans[:, i, j]), expected)
            length = torch.full((2,), 1.7 if i == j else 1.0).double()  # an inverse, not just a conjugate
            torch.testing.assert_close(quat[:, i, j].norm(dim=-1), length)


def photographed(record, K: int):
    """Every view K times, as the photographs of a vehicle that has one pose."""
    views = {
        k: v.repeat_interleave(K, dim=1) for k, v in vars(record).items() if v is not None and v.ndim > 1
    }
    return replace(record, **views)


@pytest.mark.parametrize("reduction", ["sample_mean", "view_sum"])
@pytest.mark.parametrize("term", [MetricPoseTerm(pairwise=True), PoseTerm(pairwise=True), SignedPairTerm()])
def test_fused_vehicles_weigh_poses_as_panoramas_do(term, reduction):
    """Photographs of one pose say nothing about each other; a perfect guess of that must not dilute the rest."""
    targets = random_targets(V=3)
    fused = replace(photographed(targets, 4), vehicle=targets.vehicle.repeat_interleave(4))
    predicted = random_prediction(targets)
    expected = term(Scene(predicted, targets)).reduced(reduction)
    found = term(Scene(photographed(predicted, 4), fused)).reduced(reduction)
    torch.testing.assert_close(found, expected * (4 if reduction == "view_sum" else 1))  # views are added


def test_photographs_with_poses_of_their_own_are_pairs():
    targets = random_targets(B=1, V=4)
    by_camera = replace(targets, vehicle=torch.tensor([0, 0, 1, 1]))
    other = ~torch.eye(4, dtype=torch.bool)[None]
    assert torch.equal(Scene(perfect_prediction(targets), by_camera).apart, other)
    alike = replace(targets, T_ref_view=torch.eye(4).double().repeat(1, 4, 1, 1))  # yet of four vehicles
    assert torch.equal(Scene(perfect_prediction(alike), alike).apart, other)


def signed_pair(
    predicted_m: float, ahead_m: float = 20.0, opposed: bool = False
) -> tuple[float, float, float]:
    """Value, d value / d z of vehicle 1 in metres, and wrong_side; truth is ``ahead_m`` ahead.

    ``opposed``: of the other heading.
    """
    targets = two_vehicles(ahead_m)
    if opposed:
        targets.T_ref_view[0, 1, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    perfect = perfect_prediction(targets, scale=1.0)
    trans = perfect.trans.clone()
    trans[0, 1] = torch.tensor([0.0, 0.0, predicted_m])
    trans.requires_grad_()
    value = SignedPairTerm(c=0.1)(Scene(replace(perfect, trans=trans), targets))
    value.per_sample.sum().backward()
    return value.per_sample.item(), trans.grad[0, 1, 2].item(), value.statistics["wrong_side"].item()


def test_a_car_behind_is_not_a_car_in_front():
    value, slope, wrong = signed_pair(-20.0)
    assert value == pytest.approx(math.sqrt((2 * math.log(21) / 0.1) ** 2 + 1) - 1, rel=1e-9)
    assert wrong == 1.0
    assert slope < -0.4  # -1 / (0.1 * 21): moving it forward helps, through the origin
    assert signed_pair(20.0)[0] == pytest.approx(0, abs=1e-12)
    assert signed_pair(20.0)[2] == 0.0
    assert signed_pair(-2.0, ahead_m=2.0)[2] == 0.0  # side by side: which is in front is not clear
    assert signed_pair(20.0, ahead_m=-20.0, opposed=True)[2] == 1.0  # back to back, said to be face to face
    nearer, at_zero = signed_pair(-5.0), signed_pair(1e-9)
    assert value > nearer[0] > at_zero[0] > signed_pair(10.0)[0] > 0
    assert nearer[1] < 0
    assert at_zero[1] < 0


def test_one_vehicle_has_no_pairs():
    targets = random_targets(V=1)
    for term in (SignedPairTerm(), ConsistencyTerm(pixels=4)):
        assert term(Scene(random_prediction(targets), targets)).per_sample.eq(0).all()


def test_signed_pairs_need_metric_truth():
    targets = replace(two_vehicles(), is_metric=torch.tensor([False]))
    assert SignedPairTerm()(Scene(random_prediction(targets), targets)).per_sample.item() == 0


# ---- scale


def test_median_scale_ignores_a_minority_of_wild_ranges():
    targets = random_targets(valid_fraction=1.0)
    perfect = perfect_prediction(targets)
    double = replace(perfect, scale=perfect.scale * 2)
    wild = double.distance.clone()
    wild.flatten(1)[:, ::3] *= 1000
    for p in (double, replace(double, distance=wild)):
        value = MedianScaleTerm()(Scene(p, targets)).per_sample
        torch.testing.assert_close(value, torch.full((2,), math.log(2)).double())


def test_median_scale_teaches_the_scale_only():
    targets = random_targets()
    p = random_prediction(targets)
    MedianScaleTerm()(Scene(p, targets)).per_sample.sum().backward()
    torch.testing.assert_close(p.scale.grad.abs(), 1 / p.scale.detach())
    assert p.distance.grad is None


# ---- consistency


def test_consistency_sees_a_vehicle_out_of_place_and_not_a_common_motion():
    truth = batch(("641", "650", "659"), 252)
    term = ConsistencyTerm()
    perfect = prediction(truth, noise=0.0, shift_m=0.0)
    value = term(Scene(perfect, truth.targets))
    assert value.per_sample.item() < 1e-9
    assert value.statistics["matched"].item() > 0.1
    shifted = term(Scene(prediction(truth, noise=0.0, shift_m=0.8), truth.targets))
    # pairs (0, 1) and (0, 2) are 0.8 m apart, 1 and 2 are shifted alike
    assert 0 < shifted.statistics["gap_m"].item() < 0.8
    together = replace(perfect, trans=perfect.trans + 0.04)
    assert term(Scene(together, truth.targets)).per_sample.item() < 1e-6


def test_consistency_by_hand():
    targets = two_vehicles()
    every = torch.ones_like(targets.valid)
    here = torch.tensor([1.0, 2.0, 9.0]).double().expand(1, 2, 3, 5, 3).clone()
    here[:, 1, ..., 2] -= 20  # the same place, seen from 20 m further on
    range_m = here.norm(dim=-1)
    targets = replace(
        targets, valid=every, range_m=range_m, rays=here / range_m[..., None], origins=torch.zeros_like(here)
    )
    perfect = perfect_prediction(targets, scale=1.0)
    moved = perfect.trans.clone()
    moved[0, 1, 0] += 1.5
    scene = Scene(replace(perfect, trans=moved), targets)
    value = ConsistencyTerm(c_m=0.5, pixels=4)(scene)
    assert value.per_sample.item() == pytest.approx(math.sqrt(10) - 1, rel=1e-9)  # 1.5 m / 0.5 m = 3
    assert value.statistics["gap_m"].item() == pytest.approx(1.5)
    assert value.statistics["matched"].item() == 1
    same = Scene(scene.prediction, replace(targets, vehicle=torch.tensor([0, 0])))
    assert ConsistencyTerm(pixels=4)(same).per_sample.item() == 0  # two photographs of one vehicle


def test_picked_pixels_are_valid_and_spread():
    valid = torch.zeros(1, 2, 1000, dtype=torch.bool)
    valid[0, 0, 100:900] = True
    index, seen = pick_pixels(valid, 64)
    assert seen.flatten().tolist() == [True, False]
    assert valid[0, 0, index[0, 0]].all()
    assert index[0, 0].unique().numel() == 64
    gaps = index[0, 0].sort().values.diff()
    assert gaps.max() < 3 * 800 / 64
    assert (index < 1000).all()  # the empty view's indices are harmless


# ---- height


def test_height_prior_by_hand():
    targets = random_targets(B=1, V=1, H=1, W=4, valid_fraction=0)
    up = torch.tensor([0.0, -1.0, 0.0]).double().expand(1, 1, 1, 4, 3)
    known, surface = torch.zeros(1, 1, 1, 4, dtype=torch.bool), torch.ones(1, 1, 1, 4, dtype=torch.bool)
    known[..., 3] = True
    surface[..., 3] = False  # the last pixel is known sky
    targets = replace(targets, rays=up, origins=torch.zeros_like(up), mask_known=known, non_ambiguous=surface)
    heights = torch.tensor([5.0, 25.0, 40.0, 500.0]).double().reshape(1, 1, 1, 4)
    p = replace(perfect_prediction(targets, scale=1.0), rays=up, distance=heights, origins=None)
    value = HeightPriorTerm(height_max_m=20)(Scene(p, targets))
    assert value.per_sample.item() == pytest.approx((0 + 5 + 20) / 3)
    assert value.statistics["above"].item() == pytest.approx(2 / 3)
    assert HeightPriorTerm(height_max_m=20, include_sky=True)(
        Scene(p, targets)
    ).per_sample.item() == pytest.approx((5 + 20 + 480) / 4)
    measured = replace(targets, valid=surface, range_m=torch.where(surface, 1.0, torch.nan).double())
    assert HeightPriorTerm()(Scene(p, measured)).per_sample.item() == 0
    down = replace(p, rays=-up)
    assert HeightPriorTerm()(Scene(down, targets)).per_sample.item() == 0


# ---- distillation


def test_distillation_by_hand():
    targets = two_vehicles()
    teacher = perfect_prediction(targets, scale=2.0)
    assert DistillationTerm()(Scene(teacher, targets, teacher)).per_sample.item() == pytest.approx(
        0, abs=1e-12
    )
    other = replace(teacher, scale=teacher.scale * 3, quat_xyzw=-teacher.quat_xyzw)
    value = DistillationTerm(scale_weight=0.5)(Scene(other, targets, teacher))
    assert value.statistics["rotation"].item() == pytest.approx(0, abs=1e-12)  # q and -q are one rotation
    assert value.statistics["scale"].item() == pytest.approx(math.log(3))
    metres = math.sqrt(40.0**2 + 1) - 1  # 60 m where the teacher says 20 m; view 0 is right
    assert value.statistics["translation"].item() == pytest.approx(metres / 2)
    assert value.per_sample.item() == pytest.approx(metres / 2 + 0.5 * math.log(3))


def test_the_teacher_learns_nothing_and_must_be_there():
    targets = two_vehicles()
    student, teacher = random_prediction(targets, seed=1), random_prediction(targets, seed=2)
    loss = WeightedSum({"teacher": DistillationTerm()})
    loss(student, targets, teacher).total.backward()
    assert student.trans.grad.abs().sum() > 0
    assert teacher.trans.grad is None
    with pytest.raises(ValueError, match="no teacher"):
        loss(student, targets)
    with pytest.raises(ValueError, match="same views"):
        loss(student, targets, replace(teacher, trans=teacher.trans[:, :1]))


# ---- weights that change


def test_piecewise_linear_by_hand():
    ramp = PiecewiseLinear([[0.1, 4.0], [0.3, 1.0]])
    assert [ramp(x) for x in (0.0, 0.1, 0.2, 0.3, 1.0)] == pytest.approx([4, 4, 2.5, 1, 1])
    assert PiecewiseLinear([[0.5, 2.0]])(0.2) == 2.0
    for wrong in ([], [[0.2, 1.0], [0.1, 1.0]], [[0.0, -1.0]], [[0.0, 1.0, 2.0]], [[1.5, 1.0]]):
        with pytest.raises(ValueError, match="curriculum"):
            PiecewiseLinear(wrong)


def test_curriculum_scales_weights_and_gradients_with_progress():
    targets = random_targets()
    p = random_prediction(targets)
    loss = WeightedSum(
        {"range": MetricRangeTerm(), "pose": MetricPoseTerm(weight=0.5)},
        curriculum={"pose": PiecewiseLinear([[0.0, 4.0], [1.0, 1.0]])},
    )
    seen = []
    for progress in (0.0, 0.5, 1.0):
        loss.progress = progress
        out = loss(p, targets)
        grad = torch.autograd.grad(out.total, p.trans)[0]
        seen.append((out.statistics["pose/weight"].item(), grad))
    assert [w for w, _ in seen] == pytest.approx([2.0, 1.25, 0.5])
    torch.testing.assert_close(seen[0][1], 4 * seen[2][1])
    assert loss.progress == 1.0
    with pytest.raises(ValueError, match="curriculum names"):
        WeightedSum({"range": MetricRangeTerm()}, curriculum={"pose": PiecewiseLinear([[0.0, 1.0]])})


def test_coop_config_starts_with_poses():
    loss = instantiate(composed("loss", "coop_loss"))
    final = {name: loss.weight(name) for name in loss.terms}
    assert all(weight > 0 for weight in final.values())
    loss.progress = 0.0
    assert loss.weight("pose") == 4 * final["pose"]
    assert loss.weight("side") == 4 * final["side"]
    assert loss.weight("consistency") == loss.weight("normal") == 0
    assert loss.weight("range") == final["range"]


# ---- the mask's watch


def test_mask_watch_says_what_is_wrong_once():
    watch = MaskWatch()

    def means(pred: float, gt: float) -> dict[str, float]:
        return {"total": 1.0, "mask/pred_mask_mean": pred, "mask/gt_mask_mean": gt}

    assert watch(means(0.5, 0.7)) == []
    (collapsed,) = watch(means(0.999, 0.7))
    assert "collapsed" in collapsed
    assert "loss.terms.mask.pos_weight" in collapsed
    assert watch(means(0.999, 0.7)) == []  # said already
    assert watch(means(0.6, 0.7)) == []
    assert len(watch(means(0.001, 0.7))) == 1  # back again
    (constant,) = watch(means(0.999, 1.0))
    assert "nearly constant" in constant
    assert watch({"range": 1.0}) == []
