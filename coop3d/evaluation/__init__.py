"""Evaluation: metrics on (FactoredPrediction, ViewTargets), trivial baselines, tables and files."""

from coop3d.evaluation.baselines import (
    AllNonAmbiguous,
    ConstantDepth,
    MeanDisplacement,
    ReferencePoseRepeated,
    RowMajorityMask,
    RowMedianDepth,
    TrainingStatistics,
    TrivialBaseline,
)
from coop3d.evaluation.dense import (
    MaskCounts,
    scale_error,
)
from coop3d.evaluation.evaluator import Evaluator, evaluate_batch, score_batch
from coop3d.evaluation.labels import better
from coop3d.evaluation.pose import pose_errors
from coop3d.evaluation.report import (
    aligned_text,
    compare_table,
    read_per_frame_csv,
    read_per_sample_csv,
    read_trajectory_csv,
    write_per_frame_csv,
    write_per_sample_csv,
    write_summary_json,
    write_trajectory_csv,
)
from coop3d.evaluation.rows import BANDS, BUCKETS, SampleRow, TrajectoryRow, ViewRow, distance_bucket
from coop3d.evaluation.scores import ScoreTable, score_table
from coop3d.evaluation.statistics import (
    CERTAIN_P,
    CERTAIN_SCENARIOS,
    HEADLINE,
    Comparison,
    Interval,
    best_of,
    bootstrap,
    common,
    compare,
    excludes_zero,
    shortest_warning,
    survives_permutation,
    verdict,
)
from coop3d.evaluation.summary import summarise
from coop3d.evaluation.trajectory import (
    measured_trajectories,
    tracks,
)
from coop3d.evaluation.vehicles import per_vehicle, views_per_vehicle

__all__ = [
    "BANDS",
    "BUCKETS",
    "CERTAIN_P",
    "CERTAIN_SCENARIOS",
    "HEADLINE",
    "AllNonAmbiguous",
    "Comparison",
    "ConstantDepth",
    "Evaluator",
    "Interval",
    "MaskCounts",
    "MeanDisplacement",
    "ReferencePoseRepeated",
    "RowMajorityMask",
    "RowMedianDepth",
    "SampleRow",
    "ScoreTable",
    "TrainingStatistics",
    "TrajectoryRow",
    "TrivialBaseline",
    "ViewRow",
    "aligned_text",
    "best_of",
    "better",
    "bootstrap",
    "common",
    "compare",
    "compare_table",
    "distance_bucket",
    "evaluate_batch",
    "excludes_zero",
    "heading",
    "load_contract",
    "measured_trajectories",
    "per_vehicle",
    "pose_errors",
    "read_per_frame_csv",
    "read_per_sample_csv",
    "read_trajectory_csv",
    "scale_error",
    "score_batch",
    "score_table",
    "shortest_warning",
    "summarise",
    "survives_permutation",
    "tracks",
    "verdict",
    "views_per_vehicle",
    "write_per_frame_csv",
    "write_per_sample_csv",
    "write_summary_json",
    "write_trajectory_csv",
]
