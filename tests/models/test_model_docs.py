"""The example of the room's page."""

from __future__ import annotations

import torch
from support.doc_examples import run_examples


def test_example_runs():
    made = run_examples("model.md")
    assert made["points"].shape == (1, 3, 56, 224, 3)
    assert torch.isfinite(made["points"]).all()
    # A fresh model: everything about the initial scale away, in all directions, at identity poses.
    torch.testing.assert_close(
        made["points"].norm(dim=-1), torch.full((1, 3, 56, 224), 15.0), rtol=0.2, atol=0
    )
