"""Muon against a singular value decomposition and against PyTorch's own for matrices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from coop3d.training.muon import MOMENTUM, Muon, is_matrix, orthogonalised

SHAPES = [(24, 24), (48, 16), (16, 80)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def muon(matrices: list[torch.Tensor], lr: float, decay: float, others: Sequence[torch.Tensor] = ()) -> Muon:
    others = [*others] or [torch.nn.Parameter(torch.zeros(1))]
    pairs = ((matrices, True), (others, False))
    groups = [{"params": p, "orthogonal": o, "lr": lr, "weight_decay": decay} for p, o in pairs]
    return Muon(groups, (0.9, 0.95))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values(shape, scale):
    U, _, V = torch.linalg.svd(drawn(*shape), full_matrices=False)
    values = torch.logspace(-1.5, 0, len(V)) * scale  # the largest thirty times the smallest
    found = U.mT @ orthogonalised((U * values) @ V) @ V.mT
    levels = found.diagonal()
    assert levels.min() > 0.65
    assert levels.max() < 1.25
    torch.testing.assert_close(found - levels.diag(), torch.zeros_like(found), rtol=0, atol=1e-4)


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonalised(torch.zeros(16, 32)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_follow_pytorchs_muon(shape):
    """Which iterates in bfloat16 and adds up to a few percent of noise."""
    ours, theirs = (torch.nn.Parameter(drawn(*shape)) for _ in range(2))
    rates = {"lr": 0.02, "weight_decay": 0.3}
    reference = torch.optim.Muon([theirs], momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", **rates)
    optimizer = muon([ours], 0.02, 0.3)
    for step in range(5):
        for weight in (ours, theirs):
            weight.grad = drawn(*shape, seed=step + 1)
        optimizer.step()
        reference.step()
    moved = (theirs - drawn(*shape)).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_kernel_is_the_matrix_of_its_filters():
    kernel = torch.nn.Parameter(drawn(16, 8, 3, 3).to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(drawn(16, 8, 3, 3).flatten(1))
    for weight in (kernel, matrix):
        weight.grad = drawn(16, 8, 3, 3, seed=1).view_as(weight)
        muon([weight], 0.1, 0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_an_update_has_the_usual_size_of_adamws():
    """0.2 per weight and unit of learning rate."""
    for shape in SHAPES:
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = drawn(*shape)
        muon([weight], 1.0, 0.1).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)


def test_the_other_groups_are_adamws_own():
    vectors = [torch.nn.Parameter(drawn(5)) for _ in range(2)]
    matrix = torch.nn.Parameter(drawn(16, 16))
    ours = muon([matrix], 0.1, 0.2, vectors[:1])
    theirs = torch.optim.AdamW(vectors[1:], lr=0.1, weight_decay=0.2, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        matrix.grad = drawn(16, 16, seed=step)
        for vector in vectors:
            vector.grad = drawn(5, seed=step)
        ours.step()
        theirs.step()
    assert torch.equal(*vectors)
    assert [len(g["params"]) for g in ours.param_groups] == [1, 1]
    assert set(ours.state[matrix]) == {"momentum"}


def test_what_had_no_gradient_stays():
    weights = [torch.nn.Parameter(drawn(16, 16)), torch.nn.Parameter(drawn(5))]
    muon(weights[:1], 0.1, 0.2, weights[1:]).step()
    assert torch.equal(weights[0], drawn(16, 16))
    assert torch.equal(weights[1], drawn(5))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((16, 16), True), ((15, 64), False), ((64, 15), False), ((16, 2, 3, 3), True), ((16, 1, 3, 3), False),
     ((1, 65, 192), False), ((16, 8, 8), False), ((192,), False), ((), False)],
)  # fmt: skip
def test_matrices_are_wide_weights_of_layers(shape, expected):
    assert is_matrix(torch.zeros(shape)) is expected
