"""What holds for every term: perfect is zero, gradients are right and finite, scale cancels as it should."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configs import composed
from support.doc_examples import run_examples
from support.random_views import LEAVES, perfect_prediction, random_prediction, random_targets

from coop3d.conf import CONFIG_DIR
from coop3d.geometry import quat_normalize
from coop3d.losses import (
    ConsistencyTerm,
    DistillationTerm,
    GradientMatchingTerm,
    HeightPriorTerm,
    LogScaleTerm,
    MaskTerm,
    MedianScaleTerm,
    MetricPointsTerm,
    MetricPoseTerm,
    MetricRangeTerm,
    NormalTerm,
    PointsTerm,
    PoseTerm,
    PublishedGradientMatchingTerm,
    PublishedNormalTerm,
    RangeTerm,
    RayTerm,
    ScaleTerm,
    Scene,
    SignedPairTerm,
    Term,
    ViewPointsTerm,
    WeightedSum,
)
from coop3d.types import FactoredPrediction

TERMS: dict[str, Term] = {
    "range": RangeTerm(),
    "trimmed_range": RangeTerm(exclude_top_percent=30),
    "metric_range": MetricRangeTerm(),
    "rays": RayTerm(),
    "view_points": ViewPointsTerm(),
    "points": PointsTerm(),
    "metric_points": MetricPointsTerm(),
    "pose": PoseTerm(),
    "pairwise": PoseTerm(pairwise=True),
    "metric_pose": MetricPoseTerm(pairwise=True),
    "scale": ScaleTerm(),
    "log_scale": LogScaleTerm(),
    "mask": MaskTerm(pos_weight=2.0),
    "median_scale": MedianScaleTerm(),
    "gradient": GradientMatchingTerm(synthetic_only=False),
    "published_gradient": PublishedGradientMatchingTerm(),
    "normal": NormalTerm(synthetic_only=False),
    "published_normal": PublishedNormalTerm(),
    "side": SignedPairTerm(),
    "consistency": ConsistencyTerm(within_m=30.0, pixels=8),
    "height": HeightPriorTerm(height_max_m=1.0),
}
# Not zero at the truth: an angle is never below one degree there; unmeasured pixels are not in the truth.
BIASED = ("published_normal", "height")


def load_loss(name: str, *overrides: str) -> WeightedSum:
    return instantiate(composed("loss", name, *overrides))


@pytest.mark.parametrize("name", [name for name in TERMS if name not in BIASED])
def test_perfect_prediction_costs_nothing(name):
    targets = random_targets(V=3, dtype=torch.float32)
    value = TERMS[name](Scene(perfect_prediction(targets), targets)).per_sample
    # float32 rounding only; 1e-10 for the mask is softplus(-30)
    torch.testing.assert_close(value, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TERMS)
def test_gradcheck(name):
    targets = random_targets(B=1, H=2, W=3, valid_fraction=0.8)
    # The scale terms detach geometry: their gradient is the true one in s alone, without origins.
    leaves = ("scale",) if "scale" in name else LEAVES
    prediction = random_prediction(targets)
    if "scale" in name:
        prediction = replace(prediction, origins=None)

    def value(*tensors: torch.Tensor) -> torch.Tensor:
        changed = replace(prediction, **dict(zip(leaves, tensors, strict=True)))
        return TERMS[name](Scene(changed, targets)).per_sample

    assert torch.autograd.gradcheck(value, tuple(getattr(prediction, leaf) for leaf in leaves))


def test_gradcheck_of_distillation():
    targets = random_targets(B=1, H=2, W=3)
    student, teacher = random_prediction(targets), random_prediction(targets, seed=5)
    leaves = ("trans", "quat_xyzw", "scale")

    def value(*tensors: torch.Tensor) -> torch.Tensor:
        changed = replace(student, **dict(zip(leaves, tensors, strict=True)))
        return DistillationTerm()(Scene(changed, targets, teacher)).per_sample

    assert torch.autograd.gradcheck(value, tuple(getattr(student, leaf) for leaf in leaves))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("reduction", ["sample_mean", "view_sum"])
def test_every_term_has_a_gradient_where_there_is_something_to_learn(name, reduction):
    """Guards the test above: gradcheck of a term that is constantly 0 proves nothing."""
    targets = random_targets(valid_fraction=0.8)
    prediction = random_prediction(targets)
    WeightedSum({name: TERMS[name]}, reduction=reduction)(prediction, targets).total.backward()
    grads = [getattr(prediction, leaf).grad for leaf in LEAVES]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    valid=st.sampled_from([0.0, 0.1, 1.0]),
    metric=st.booleans(),
    synthetic=st.booleans(),
    known=st.booleans(),
    reduction=st.sampled_from(["sample_mean", "view_sum"]),
)
def test_value_and_gradients_are_always_finite(seed, size, valid, metric, synthetic, known, reduction):
    B, V, H, W = size
    targets = random_targets(seed, B, V, H, W, valid, torch.float32)
    targets = replace(
        targets,
        is_metric=torch.full((B,), metric),
        is_synthetic=torch.full((B,), synthetic),
        mask_known=targets.mask_known & known,
    )
    targets.valid[0] = False  # one sample sees only sky
    targets.range_m[0] = torch.nan
    prediction = random_prediction(targets)
    terms = {**TERMS, "teacher": DistillationTerm()}
    out = WeightedSum(terms, reduction=reduction)(prediction, targets, random_prediction(targets, seed=2))
    out.total.backward()
    assert all(v.isfinite() for v in out.scalars().values())
    for leaf in LEAVES:
        assert getattr(prediction, leaf).grad.isfinite().all(), leaf


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("collapsed", ["rays", "distance", "trans", "everything"])
def test_collapsed_predictions_have_finite_gradients(name, collapsed):
    """All rays equal, no distance, no displacement: places where lengths and angles have no derivative."""
    targets = replace(random_targets(V=3, dtype=torch.float32), origins=torch.zeros(2, 3, 3, 5, 3))
    start = random_prediction(targets)
    forms = {"rays": torch.tensor([0.0, 0.0, 1.0]), "distance": torch.tensor(0.0), "trans": torch.zeros(3)}
    changed = {
        leaf: form.expand_as(getattr(start, leaf)).clone().requires_grad_()
        for leaf, form in forms.items()
        if collapsed in (leaf, "everything")
    }
    prediction = replace(start, **changed)
    out = WeightedSum({name: TERMS[name]})(prediction, targets)
    out.total.backward()
    assert out.total.isfinite()
    grads = [getattr(prediction, leaf).grad for leaf in LEAVES]
    assert all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TERMS)
def test_a_gpu_gives_the_same_values_and_gradients(name):
    targets = random_targets(V=3, H=8, W=16)
    found = []
    for device in ("cpu", "cuda"):
        p = random_prediction(targets)
        WeightedSum({name: TERMS[name]})(p.to(device), targets.to(device)).total.backward()
        found.append([g for leaf in LEAVES if (g := getattr(p, leaf).grad) is not None])
    torch.testing.assert_close(found[1], found[0])  # float64: only the order of sums differs


def test_nothing_measured_teaches_nothing_about_geometry():
    targets = random_targets(valid_fraction=0)
    prediction = random_prediction(targets)
    not_dense = ("mask", "metric_pose", "pose", "pairwise", "rays", "side", "height")
    dense = {k: t for k, t in TERMS.items() if k not in not_dense}
    out = WeightedSum(dense)(prediction, targets)
    out.total.backward()
    assert all(v == 0 for v in out.terms.values())
    assert prediction.distance.grad.eq(0).all()


NORMALISED = ("range", "view_points", "points", "pose", "pairwise")


def scaled(p: FactoredPrediction, **factors: float) -> FactoredPrediction:
    return replace(p, **{name: getattr(p, name) * k for name, k in factors.items()})


def values(prediction: FactoredPrediction, targets, names=NORMALISED) -> torch.Tensor:
    return torch.stack([TERMS[n](Scene(prediction, targets)).per_sample for n in names])


def test_normalised_terms_do_not_see_how_scale_is_factored():
    """(s, d, t) and (k s, d / k, t / k) are the same metric scene, with origins or without."""
    targets = random_targets()
    p = random_prediction(targets).detach()
    same = scaled(p, scale=4.0, distance=0.25, trans=0.25)
    torch.testing.assert_close(values(same, targets), values(p, targets))


def test_normalised_terms_do_not_see_the_size_of_the_whole_predicted_scene():
    targets = random_targets()
    p = random_prediction(targets).detach()
    larger = scaled(p, scale=4.0, origins=4.0)
    torch.testing.assert_close(values(larger, targets), values(p, targets))


def test_scale_alone_is_invisible_exactly_when_origins_are_zero():
    """Known origins stay metric while the rest scales: the shape changes, and that makes scale observable."""
    targets = random_targets()
    p = random_prediction(targets).detach()
    assert not torch.allclose(values(scaled(p, scale=4.0), targets), values(p, targets))
    p = replace(p, origins=None)
    torch.testing.assert_close(values(scaled(p, scale=4.0), targets), values(p, targets))
    metric = ("metric_range", "metric_points", "metric_pose", "scale", "log_scale", "median_scale", "side")
    before, after = values(p, targets, metric), values(scaled(p, scale=4.0), targets, metric)
    assert (before != after).all()


def test_equal_parts_of_a_batch_average_to_the_whole():
    """What DDP does, even when one part has no valid pixel at all."""
    targets = random_targets(B=4, valid_fraction=0.3)
    targets.valid[1] = False
    targets.range_m[1] = torch.nan
    prediction = random_prediction(targets)
    loss = WeightedSum(TERMS)
    whole = loss(prediction, targets).scalars()

    def part(record, index):
        return record._map(lambda x: x if x.shape == targets.vehicle.shape else x[index])

    parts = [loss(part(prediction, slice(i, i + 2)), part(targets, slice(i, i + 2))) for i in (0, 2)]
    for name, value in whole.items():
        if not name.endswith(("/gap_m", "/mean_deg", "/above")):  # means over pixels, not over samples
            torch.testing.assert_close(sum(p.scalars()[name] for p in parts) / 2, value, msg=name)


def test_weights_names_and_half_precision():
    targets = random_targets(dtype=torch.float32)
    prediction = random_prediction(targets).detach()
    out = WeightedSum({"a": RangeTerm(weight=2.0), "b": MaskTerm(weight=0.5)})(prediction, targets)
    torch.testing.assert_close(out.total, 2 * out.terms["a"] + 0.5 * out.terms["b"])
    assert set(out.scalars()) == {"total", "a", "b", "b/pred_mask_mean", "b/gt_mask_mean"}
    half = replace(prediction, distance=prediction.distance.bfloat16())
    assert WeightedSum({"a": RangeTerm()})(half, targets).total.dtype == torch.float32


def test_autocast_does_not_reach_the_loss():
    targets = random_targets(dtype=torch.float32)
    prediction = random_prediction(targets).detach()
    loss = WeightedSum(TERMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(prediction, targets).total
    torch.testing.assert_close(inside, loss(prediction, targets).total, rtol=0, atol=0)


def test_tensorfloat_does_not_reach_the_loss():
    class Broken(RangeTerm):
        def __call__(self, scene):
            raise RuntimeError(
                f"{torch.get_float32_matmul_precision()}, {torch.backends.cuda.matmul.allow_tf32}"
            )

    targets = random_targets(dtype=torch.float32)
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError, match="highest, False"):
            WeightedSum({"a": Broken()})(random_prediction(targets), targets)
        assert torch.get_float32_matmul_precision() == "high"  # the network's, as before
    finally:
        torch.set_float32_matmul_precision("highest")


NEWER_SWITCH = """
import torch
from coop3d.geometry.precision import full_precision
products = torch.backends.cuda.matmul
torch.backends.fp32_precision = "tf32"
with full_precision("cpu"):
    print(products.fp32_precision)
print(products.fp32_precision)
"""


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs PyTorch's newer switch"
)
def test_a_process_with_pytorchs_newer_switch_may_have_losses_and_matched_poses():
    """Once it is used, asking for the older one is an error."""
    found = subprocess.run(
        [sys.executable, "-c", NEWER_SWITCH], capture_output=True, text=True, timeout=200, check=False
    )
    assert found.stdout.split() == ["ieee", "tf32"], found.stderr


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIG_DIR / "loss").glob("*.yaml")))
def test_configs_build_and_weights_can_be_overridden(name):
    loss = load_loss(name, "terms.pose.weight=2.0")
    assert loss.terms["pose"].weight == 2.0
    targets = random_targets(dtype=torch.float32)
    prediction = random_prediction(targets)
    if "matching" in loss.terms:
        cells = (*targets.range_m.shape, 8)
        prediction = replace(prediction, descriptors=torch.randn(cells), seen_logits=torch.randn(cells[:-1]))
    loss(prediction, targets, teacher=prediction).total.backward()
    assert prediction.distance.grad.abs().sum() > 0


def test_team_config_has_the_teams_numbers():
    """Weights 1, normals and gradients 3, mask 0.3; the top 5 % excluded where there is no confidence."""
    loss = load_loss("overall_loss")
    weights = {name: term.weight for name, term in loss.terms.items()}
    ones = dict.fromkeys(("points", "view_points", "range", "rays", "pose", "scale"), 1.0)
    assert weights == {**ones, "normal": 3.0, "gradient": 3.0, "mask": 0.3}
    excluded = {name: getattr(term, "exclude_top_percent", 0) for name, term in loss.terms.items()}
    assert {name: x for name, x in excluded.items() if x} == {"view_points": 5.0, "range": 5.0}
    assert loss.terms["points"].confidence_alpha == 0.2
    assert not loss.curriculum
    robust_terms = [t for t in loss.terms.values() if hasattr(t, "alpha")]
    assert {(t.c, t.alpha) for t in robust_terms} == {(0.05, 0.5)}


@pytest.mark.parametrize("name", ["overall_loss", "opv2v_pose_loss"])
def test_published_configs_differ_in_two_formulas_only(name):
    ours, published = load_loss(name), load_loss(f"{name}_published")
    assert published.reduction == ours.reduction == "view_sum"
    assert {k: t.weight for k, t in ours.terms.items()} == {k: t.weight for k, t in published.terms.items()}
    different = [k for k, t in ours.terms.items() if type(t) is not type(published.terms[k])]
    assert different == ["normal", "gradient"]
    assert ours.terms["normal"].weight == ours.terms["gradient"].weight == 3.0


def test_team_pose_config_differs_from_overall_in_pose_only():
    overall, pose = load_loss("overall_loss"), load_loss("opv2v_pose_loss")
    assert pose.terms["pose"].pairwise
    assert not overall.terms["pose"].pairwise
    assert pose.terms["pose"].weight == 3.0
    assert pose.terms["mask"].weight == 0.3
    assert {k: vars(t) for k, t in pose.terms.items() if k != "pose"} == {
        k: vars(t) for k, t in overall.terms.items() if k != "pose"
    }


def test_mistakes_are_refused_with_a_reason():
    targets = random_targets()
    prediction = random_prediction(targets)
    with pytest.raises(ValueError, match="no terms"):
        WeightedSum({})
    with pytest.raises(ValueError, match="weight is -1"):
        RangeTerm(weight=-1)
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        WeightedSum({"a": RangeTerm()}, reduction="sum")
    with pytest.raises(ValueError, match="exclude_top_percent is 100"):
        RangeTerm(exclude_top_percent=100)
    with pytest.raises(ValueError, match="confidence_alpha is -1"):
        PointsTerm(confidence_alpha=-1)
    with pytest.raises(ValueError, match="confidence_weighs=false needs one > 0"):
        PointsTerm(confidence_alpha=None, confidence_weighs=False)
    with pytest.raises(ValueError, match="same batch"):
        Scene(replace(prediction, distance=prediction.distance[:, :1]), targets)


def test_documentation_example_runs():
    out = run_examples("losses.md")["out"]
    assert out.terms["scale"].item() == pytest.approx(0.693, abs=1e-3)
    assert out.total.item() == pytest.approx(7.39, abs=1e-2)


@pytest.mark.parametrize("name", ["cyl_loss", "coop_loss"])
def test_descending_the_recommended_loss_recovers_metric_truth(name):
    """From no displacement, no rotation and a range of 1 m everywhere, without any network in between."""
    targets = random_targets(V=3, H=4, W=8, dtype=torch.float32)
    start = random_prediction(targets)
    identity = torch.tensor([0.1, -0.1, 0.1, 1.0]).repeat(2, 3, 1)
    leaves = {
        "log_range": torch.zeros_like(start.distance),
        "trans": torch.zeros(2, 3, 3),
        "quat": identity,
        "log_scale": torch.zeros(2),
    }
    optimizer = torch.optim.Adam([x.requires_grad_() for x in leaves.values()], lr=0.05)
    loss = load_loss(name, "~terms.mask")

    def predict() -> FactoredPrediction:
        return FactoredPrediction(
            rays=targets.rays,
            distance=leaves["log_range"].exp(),
            trans=leaves["trans"],
            quat_xyzw=quat_normalize(leaves["quat"]),
            scale=leaves["log_scale"].exp(),
            confidence=torch.ones_like(start.distance),
            mask_logits=torch.zeros_like(start.distance),
            origins=targets.origins,
        )

    for step in range(300):
        loss.progress = step / 300
        optimizer.zero_grad()
        loss(predict(), targets).total.backward()
        optimizer.step()
    prediction = predict().detach()
    # started 19.6 m and 97 degrees off; Adam without decay ends on a plateau of its own step size
    assert (prediction.T_ref_view - targets.T_ref_view)[..., :3, 3].norm(dim=-1).max() < 0.5
    cosine = (
        (prediction.quat_xyzw * Scene(prediction, targets).true_quat).sum(dim=-1).abs()
    )  # of half the angle
    assert cosine.min() > math.cos(math.radians(2) / 2)
    ratio = (prediction.range_m / targets.range_m)[targets.valid]
    assert (ratio - 1).abs().mean() < 0.02
