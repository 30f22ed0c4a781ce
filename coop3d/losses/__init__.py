"""Losses: small named terms on (FactoredPrediction, ViewTargets) and their weighted sum."""

from coop3d.losses.consistency import ConsistencyTerm
from coop3d.losses.curriculum import PiecewiseLinear
from coop3d.losses.dense import (
    DenseTerm,
    MetricPointsTerm,
    MetricRangeTerm,
    MetricViewPointsTerm,
    PointsTerm,
    RangeTerm,
    RayTerm,
    RobustTerm,
    ViewPointsTerm,
)
from coop3d.losses.distillation import DistillationTerm
from coop3d.losses.gradient import GradientMatchingTerm
from coop3d.losses.height import HeightPriorTerm
from coop3d.losses.mask import MaskTerm, MaskWatch
from coop3d.losses.matching import MatchingTerm
from coop3d.losses.normal import NormalTerm
from coop3d.losses.pose import MetricPoseTerm, PoseTerm, SignedPairTerm
from coop3d.losses.published import PublishedGradientMatchingTerm, PublishedNormalTerm
from coop3d.losses.robust import keep_smallest, log_map, masked_mean, robust
from coop3d.losses.scale import LogScaleTerm, MedianScaleTerm, ScaleTerm
from coop3d.losses.scene import Scene
from coop3d.losses.term import Reduction, Term, TermValue
from coop3d.losses.weighted_sum import LossOutput, WeightedSum

__all__ = [
    "ConsistencyTerm",
    "DenseTerm",
    "DistillationTerm",
    "GradientMatchingTerm",
    "HeightPriorTerm",
    "LogScaleTerm",
    "LossOutput",
    "MaskTerm",
    "MaskWatch",
    "MatchingTerm",
    "MedianScaleTerm",
    "MetricPointsTerm",
    "MetricPoseTerm",
    "MetricRangeTerm",
    "MetricViewPointsTerm",
    "NormalTerm",
    "PiecewiseLinear",
    "PointsTerm",
    "PoseTerm",
    "PublishedGradientMatchingTerm",
    "PublishedNormalTerm",
    "RangeTerm",
    "RayTerm",
    "Reduction",
    "RobustTerm",
    "ScaleTerm",
    "Scene",
    "SignedPairTerm",
    "Term",
    "TermValue",
    "ViewPointsTerm",
    "WeightedSum",
    "keep_smallest",
    "log_map",
    "masked_mean",
    "robust",
]
