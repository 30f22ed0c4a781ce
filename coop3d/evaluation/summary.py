"""A flat dictionary of named numbers, ready for a log, a JSON file or a table."""

from __future__ import annotations

from collections.abc import Sequence

from coop3d.evaluation.rows import SampleRow, TrajectoryRow, ViewRow
from coop3d.evaluation.scores import score_table


def summarise(
    rows: Sequence[ViewRow], samples: Sequence[SampleRow] = (), trajectories: Sequence[TrajectoryRow] = ()
) -> dict[str, float]:
    """Summary of an evaluation; NaN where nothing could be scored. All names: docs/evaluation.md.

    ``pose/...`` counts every view of a non-reference vehicle once, and fused photographs, which share their vehicle's
    pose, as one view. ``range/...`` are means over views of the per-view scores, except per band, where pixels are
    pooled. ``mask/...`` pools pixels of all views.
    """
    return score_table(rows, samples, trajectories).summary()
