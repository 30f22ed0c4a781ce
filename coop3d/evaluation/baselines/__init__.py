"""What a model is shown beside: predictors that have not looked, and ones that have seen the truth.

Constants come from *training* targets through `TrainingStatistics`; a trivial predictor itself sees `ViewInputs`
only, like a model, and ignores the image. Oracles take `ViewTargets`, and say so by type.
"""

from coop3d.evaluation.baselines.ground import ground_plane_range
from coop3d.evaluation.baselines.guesses import (
    AllNonAmbiguous,
    ConstantDepth,
    MeanDisplacement,
    ReferencePoseRepeated,
    RowMajorityMask,
    RowMedianDepth,
)
from coop3d.evaluation.baselines.oracles import GroundTruth, NoisyGnss
from coop3d.evaluation.baselines.predictors import (
    GroundPlaneBaseline,
    TrivialBaseline,
    known_ray_prediction,
)
from coop3d.evaluation.baselines.statistics import TrainingStatistics

__all__ = [
    "AllNonAmbiguous",
    "ConstantDepth",
    "GroundPlaneBaseline",
    "GroundTruth",
    "MeanDisplacement",
    "NoisyGnss",
    "ReferencePoseRepeated",
    "RowMajorityMask",
    "RowMedianDepth",
    "TrainingStatistics",
    "TrivialBaseline",
    "ground_plane_range",
    "known_ray_prediction",
]
