"""Learning rates against the closed form at points computed by hand; parameter groups."""

from __future__ import annotations

import pytest
import torch
from support.toy_run import ToyModel

from coop3d.training.muon import Muon
from coop3d.training.schedule import (
    lr_factor,
    make_optimizer,
    parameter_groups,
    set_lr,
)
from coop3d.training.state import load_optimizer_state, optimizer_state


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),  # the first update moves already
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),  # cos 0
        (60, 0.2 + 0.8 * 0.5),  # half way: cos(pi/2) = 0
        (35, 0.2 + 0.8 * 0.5 * (1 + 2**-0.5)),  # a quarter: cos(pi/4)
        (110, 0.2),
        (500, 0.2),  # stays there
    ],
)
def test_warm_up_then_cosine(step, expected):
    assert lr_factor(step, warmup_steps=10, total_steps=110, min_factor=0.2) == pytest.approx(
        expected, abs=1e-12
    )


def test_parameter_groups_part_encoder_from_rest_and_matrices_from_vectors():
    model = ToyModel()
    model.pose.weight.requires_grad_(False)
    groups = {g["name"]: g for g in parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr_factor=0.05)}
    assert {n: (g["base_lr"], g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "encoder": (0.05, 0.1, 1),
        "encoder_no_decay": (0.05, 0.0, 1),
        "rest": (1.0, 0.1, 1),  # head.weight; pose.weight is frozen
        "rest_no_decay": (1.0, 0.0, 4),  # norm weight and bias, head and pose bias
    }


def test_with_muon_matrices_are_groups_of_their_own():
    model = ToyModel(matrix=True)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr_factor=0.05, orthogonal=True)
    assert {
        g["name"]: (g["base_lr"], g["weight_decay"], len(g["params"]), g["orthogonal"]) for g in groups
    } == {
        "encoder": (0.05, 0.1, 1, False),  # of 3 inputs: too narrow
        "encoder_matrices": (0.05, 0.1, 1, True),
        "encoder_no_decay": (0.05, 0.0, 2, False),
        "rest": (1.0, 0.1, 2, False),  # outputs of 1 and 3 numbers
        "rest_no_decay": (1.0, 0.0, 4, False),
    }
    assert isinstance(make_optimizer(groups, (0.9, 0.95)), Muon)


def test_adapters_in_the_encoder_learn_at_the_full_rate():
    """The factor spares pretrained weights; an adapter starts from nothing and the weights behind it are frozen."""
    model = ToyModel()
    model.encoder.lora_A = torch.nn.Linear(8, 2, bias=False)
    groups = {g["name"]: g for g in parameter_groups(model, lr=1.0, weight_decay=0.1, encoder_lr_factor=0.05)}
    assert any(p is model.encoder.lora_A.weight for p in groups["rest"]["params"])
    assert len(groups["encoder"]["params"]) == 1


def test_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(ToyModel().requires_grad_(False), 1.0, 0.1, 1.0)


def test_restored_optimiser_keeps_the_rates_of_the_present_config():
    model = ToyModel()

    def make(lr: float) -> torch.optim.Optimizer:
        return make_optimizer(parameter_groups(model, lr, 0.1, 0.5), (0.9, 0.95))

    old, new = make(1.0), make(2.0)
    load_optimizer_state(model, new, optimizer_state(model, old))
    set_lr(new, 0.5)
    assert [g["lr"] for g in new.param_groups] == [0.5, 0.5, 1.0, 1.0]


def test_moments_of_a_number_without_a_dimension_fit_one_with():
    """Earlier checkpoints; a run begun on a CPU also leaves its steps there."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

    model = Scaled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.gain.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = optimizer_state(model, optimizer)
    state["state"]["gain"] |= {k: state["state"]["gain"][k].reshape(()) for k in ("exp_avg", "exp_avg_sq")}
    new = torch.optim.AdamW(model.parameters(), lr=0.1)
    load_optimizer_state(model, new, state)
    assert new.state[model.gain]["exp_avg"].shape == (1,)
    model.gain.sum().backward()
    new.step()
