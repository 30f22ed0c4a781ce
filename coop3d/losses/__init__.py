"""Losses: small named terms on (FactoredPrediction, ViewTargets) and their weighted sum."""

from coop3d.losses.dense import (
    MetricPointsTerm,
    MetricRangeTerm,
    PointsTerm,
    RangeTerm,
    RayTerm,
    RobustTerm,
    ViewPointsTerm,
)
from coop3d.losses.gradient import GradientMatchingTerm
from coop3d.losses.mask import MaskTerm
from coop3d.losses.pose import MetricPoseTerm, PoseTerm
from coop3d.losses.robust import log_map, masked_mean, robust
from coop3d.losses.scale import LogScaleTerm, ScaleTerm
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue
from coop3d.losses.weighted_sum import LossOutput, WeightedSum

__all__ = [
    "GradientMatchingTerm",
    "LogScaleTerm",
    "LossOutput",
    "MaskTerm",
    "MetricPointsTerm",
    "MetricPoseTerm",
    "MetricRangeTerm",
    "PointsTerm",
    "PoseTerm",
    "RangeTerm",
    "RayTerm",
    "RobustTerm",
    "ScaleTerm",
    "Scene",
    "Term",
    "TermValue",
    "ViewPointsTerm",
    "WeightedSum",
    "log_map",
    "masked_mean",
    "robust",
]
