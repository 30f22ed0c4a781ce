"""Dense head: order of its linear steps, the layout of its maps, and what the raw numbers of all heads mean."""

from __future__ import annotations

import math

import pytest
import torch

from coop3d.models.adaptors import adapt_dense, adapt_quaternion, adapt_scale
from coop3d.models.heads import DptFeatures, DptRegressor, FusionBlock, to_map
from coop3d.models.spatial import upsample

GRID = (3, 5)


def random_double(module):
    """In float64, so that only rounding is left of a difference; biases, too, are not zero."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("coarsest", [False, True])
def test_projecting_before_upsampling_is_the_published_order(wrap, coarsest):
    block = random_double(FusionBlock(6, wrap, coarsest=coarsest))
    x, skip = torch.randn(2, 2, 6, *GRID, dtype=torch.float64)
    sum_of_levels = x if coarsest else x + block.resConfUnit1(skip)
    size = (2 * GRID[0], GRID[1] if wrap and coarsest else 2 * GRID[1])
    expected = block.out_conv(upsample(block.resConfUnit2(sum_of_levels), size, wrap))
    found = block(x, None if coarsest else skip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_map_is_its_tokens_row_by_row():
    tokens = torch.randn(2, 3, 15, 4)
    found = to_map(tokens, *GRID)
    assert found.shape == (6, 4, *GRID)
    for view in range(6):
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                token = tokens[view // 3, view % 3, row * GRID[1] + column]
                assert torch.equal(found[view, :, row, column], token)


def test_on_a_cpu_channels_lie_last_from_tokens_to_raw_maps():
    tokens = torch.randn(2, 15, 8, dtype=torch.float64)
    maps = to_map(tokens, *GRID)
    assert maps.data_ptr() == tokens.data_ptr()
    features = random_double(DptFeatures((8, 8, 8, 8), (4, 6, 8, 10), 6, wrap=False))
    regressor = random_double(DptRegressor(6, wrap=False))
    found, plain = (
        regressor(features((x, x, x, x)), (GRID[0] * 14, GRID[1] * 14)) for x in (maps, maps.contiguous())
    )
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


def test_raw_numbers_by_hand():
    raw = torch.tensor(
        [[3.0, 0.0], [0.0, 0.0], [-4.0, 0.0], [math.log(7), 99.0], [math.log(2), -99.0], [-5.0, 1.0]]
    )
    found = adapt_dense(raw[:, None], log_limit=10.0)  # one row of two pixels
    torch.testing.assert_close(found.rays[0], torch.tensor([[0.6, 0.0, -0.8], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found.distance[0], torch.tensor([7.0, math.exp(10)]))
    torch.testing.assert_close(found.confidence[0], torch.tensor([3.0, 1 + math.exp(-10)]))
    assert found.mask_logits[0].tolist() == [-5.0, 1.0]
    assert adapt_dense(raw[:, None], log_limit=None).distance[0, 1].isinf()
    torch.testing.assert_close(
        adapt_quaternion(torch.tensor([0.0, 0.0, -6.0, -8.0])), torch.tensor([0.0, 0.0, -0.6, -0.8])
    )
    assert adapt_quaternion(torch.zeros(4)).tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(
        adapt_scale(torch.tensor([math.log(12), -99.0]), None), torch.tensor([12.0, 1e-8])
    )
