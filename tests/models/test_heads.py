"""Dense head: order of its linear steps, and the layout of its maps."""

from __future__ import annotations

import pytest
import torch

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
