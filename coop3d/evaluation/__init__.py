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
    standard_baselines,
)
from coop3d.evaluation.dense import (
    MaskCounts,
    RangeErrors,
    mask_counts,
    median_ratio,
    range_errors,
    scale_error,
)
from coop3d.evaluation.evaluator import Evaluator, evaluate_batch
from coop3d.evaluation.pose import PoseErrors, heading, pose_errors
from coop3d.evaluation.report import compare_table, write_per_frame_csv, write_summary_json
from coop3d.evaluation.rows import BUCKETS, ViewRow, distance_bucket
from coop3d.evaluation.summary import summarise

__all__ = [
    "BUCKETS",
    "AllNonAmbiguous",
    "ConstantDepth",
    "Evaluator",
    "MaskCounts",
    "MeanDisplacement",
    "PoseErrors",
    "RangeErrors",
    "ReferencePoseRepeated",
    "RowMajorityMask",
    "RowMedianDepth",
    "TrainingStatistics",
    "TrivialBaseline",
    "ViewRow",
    "compare_table",
    "distance_bucket",
    "evaluate_batch",
    "heading",
    "mask_counts",
    "median_ratio",
    "pose_errors",
    "range_errors",
    "scale_error",
    "standard_baselines",
    "summarise",
    "write_per_frame_csv",
    "write_summary_json",
]
