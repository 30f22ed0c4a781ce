"""What is kept of an evaluation once the dense tensors are gone: one row per view, one per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, get_type_hints

DISTANCE_EDGES_M = (0.0, 15.0, 30.0, 60.0, 100.0, math.inf)  # of a vehicle to the reference
RANGE_EDGES_M = (0.0, 10.0, 20.0, 40.0, 80.0, math.inf)  # of a surface along its ray


def _names(edges: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        f"{low:.0f}+m" if math.isinf(high) else f"{low:.0f}-{high:.0f}m" for low, high in pairwise(edges)
    )


BUCKETS, BANDS = _names(DISTANCE_EDGES_M), _names(RANGE_EDGES_M)


def distance_bucket(distance_m: float) -> str:
    """Name of the half-open bucket [low, high) that holds a true distance: "0-15m" .. "100+m"."""
    for name, high in zip(BUCKETS, DISTANCE_EDGES_M[1:], strict=True):
        if distance_m < high:
            return name
    raise ValueError(f"distance {distance_m} m is in no bucket; expected a finite distance")


class RangeBand(NamedTuple):
    """Range scores of the pixels of one view whose true range lies in one band; NaN without pixels."""

    pixels: int = 0
    abs_rel: float = math.nan
    rmse_m: float = math.nan
    mae_m: float = math.nan
    delta_125: float = math.nan
    abs_rel_aligned: float = math.nan
    rmse_aligned_m: float = math.nan
    mae_aligned_m: float = math.nan
    delta_125_aligned: float = math.nan


class PoseNumbers(NamedTuple):
    """A metric pose as position in metres and unit quaternion."""

    x: float = math.nan
    y: float = math.nan
    z: float = math.nan
    qx: float = math.nan
    qy: float = math.nan
    qz: float = math.nan
    qw: float = math.nan


class PointScores(NamedTuple):
    """A predicted cloud against the true one, see `coop3d.evaluation.points`; NaN where not computed."""

    predicted: int = 0  # points after voxel subsampling
    true: int = 0
    accuracy_m: float = math.nan  # predicted to nearest true point, truncated mean
    completeness_m: float = math.nan  # true to nearest predicted point, truncated mean
    chamfer_m: float = math.nan
    precision_20cm: float = math.nan
    precision_50cm: float = math.nan
    precision_1m: float = math.nan
    recall_20cm: float = math.nan
    recall_50cm: float = math.nan
    recall_1m: float = math.nan
    fscore_20cm: float = math.nan
    fscore_50cm: float = math.nan
    fscore_1m: float = math.nan
    bev_iou: float = math.nan


class RegistrationScores(NamedTuple):
    """Vehicle centres after the best similarity, see `coop3d.evaluation.registration`; NaN = undefined."""

    centres: int = 0
    maa: float = math.nan
    clusterness: float = math.nan
    score: float = math.nan
    registered_50cm: float = math.nan
    registered_1m: float = math.nan
    registered_2m: float = math.nan
    registered_5m: float = math.nan
    registered_10m: float = math.nan


NO_POSE, NO_POINTS, NO_REGISTRATION = PoseNumbers(), PointScores(), RegistrationScores()
NO_BANDS = (RangeBand(),) * len(BANDS)


@dataclass(frozen=True, kw_only=True)
class ViewRow:
    """Scores of one view of one sample. NaN where a score does not apply.

    Poses are scored for views of other vehicles than the reference's only: the reference's own pose is the
    identity by definition, and averaging its zero error in would halve the error of a pair.
    Metric scores are NaN for samples without metric scale.
    """

    scenario: str
    agent: str
    frame: str
    reference_agent: str
    view: int
    is_reference: bool  # the view belongs to the reference vehicle
    # pose of the view in the reference frame, unaligned
    distance_m: float  # true distance to the reference
    distance_bucket: str  # "" for the reference
    translation_error_m: float
    rotation_error_deg: float
    yaw_error_deg: float
    direction_error_deg: float  # 0..180: a flipped translation scores 180
    # range along the ray on valid pixels
    valid_pixels: int
    scale_error: float  # exp |log median(r / r*)| >= 1
    abs_rel: float
    rmse_m: float
    mae_m: float
    delta_125: float
    abs_rel_aligned: float
    rmse_aligned_m: float
    mae_aligned_m: float
    delta_125_aligned: float
    # non-ambiguous mask: pixel counts where the truth is known
    mask_tp: int
    mask_fp: int
    mask_fn: int
    mask_tn: int
    # directions of the rays, on covered pixels
    ray_error_deg: float = math.nan
    # does confidence know the error of range? see `coop3d.evaluation.confidence`
    confidence_ause: float = math.nan  # 0 the best order, 1 no better than chance
    confidence_spearman: float = math.nan  # 1 the best order, 0 none
    confidence_log: float = math.nan  # mean log of the confidence of valid pixels
    # sum of weights of the matches that agree with the pose; 0 means the pose comes from the pose head
    pose_support: float = math.nan
    exact_range: float = math.nan  # fraction of valid pixels off by less than 1e-5: suspicious where high
    bands: tuple[RangeBand, ...] = NO_BANDS  # in the order of `BANDS`
    pose_pred: PoseNumbers = NO_POSE  # T_ref_view
    pose_true: PoseNumbers = NO_POSE

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it the same row in another run."""
        return (self.scenario, self.reference_agent, self.frame, self.agent, str(self.view))


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """Scores of one sample as a whole. NaN where a score does not apply, 0 counts where nothing was counted."""

    scenario: str
    frame: str
    reference_agent: str
    vehicles: int
    is_metric: bool
    scale_error: float = math.nan  # exp |log median(r / r*)| over the valid pixels of all views together
    # all pairs of different vehicles, sign-blind: the convention of pose papers
    pairs: int = 0
    convention_auc_5: float = math.nan
    convention_auc_10: float = math.nan
    convention_auc_30: float = math.nan
    # clouds in the reference frame; `alone` is the reference vehicle's part only, on the same truth
    points: PointScores = NO_POINTS
    points_filtered: PointScores = NO_POINTS
    points_alone: PointScores = NO_POINTS
    points_filtered_alone: PointScores = NO_POINTS
    registration: RegistrationScores = NO_REGISTRATION
    T_world_ref: PoseNumbers = NO_POSE  # true; places predicted poses of a drive in one frame

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it the same row in another run."""
        return (self.scenario, self.reference_agent, self.frame)


@dataclass(frozen=True, kw_only=True)
class TrajectoryRow:
    """One vehicle seen from another over consecutive frames, see `coop3d.evaluation.trajectory`."""

    scenario: str
    reference_agent: str
    agent: str
    first_frame: str
    poses: int
    step: int  # frame numbers from one pose to the next
    ate_m: float  # RMS distance of positions in the world, nothing aligned
    ate_aligned_m: float  # after the best rigid alignment; NaN where positions lie on one line or point
    rpe_m: float  # RMS error of the motion from one pose to the next
    rpe_deg: float

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it the same row in another run."""
        return (self.scenario, self.reference_agent, self.agent, self.first_frame, str(self.step))


Row = ViewRow | SampleRow | TrajectoryRow
RowT = TypeVar("RowT", ViewRow, SampleRow, TrajectoryRow)

# of a row or a part of it; looked up once: that takes longer than to read a row
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def flatten(row: Row) -> dict[str, Any]:
    """Column name to value; parts of a tuple are ``field/part``, of a range band ``bands/0-10m/part``."""
    return dict(_flat("", row))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (ViewRow, SampleRow, TrajectoryRow)):
        for f in fields(value):
            yield from _flat(f.name, getattr(value, f.name))
    elif hasattr(value, "_asdict"):
        for name, part in value._asdict().items():
            yield f"{prefix}/{name}", part
    elif isinstance(value, tuple):
        for band, part in zip(BANDS, value, strict=True):
            yield from _flat(f"{prefix}/{band}", part)
    else:
        yield prefix, value


def columns_of(kind: type[Row]) -> list[str]:
    """Every column of :func:`flatten`, in order."""
    return list(flatten(kind(**{f.name: "" for f in fields(kind) if f.default is MISSING})))  # type: ignore


def unflatten(kind: type[RowT], columns: Mapping[str, str]) -> RowT:
    """The row that :func:`flatten` wrote, from text. Columns that are absent take their defaults.

    Raises:
        ValueError: a column without default is absent, or is not of its type; the message names it.
    """
    values: dict[str, Any] = {}
    for name, hint in _hints(kind).items():
        if name == "bands":
            values[name] = tuple(_parts(RangeBand, f"bands/{band}", columns) for band in BANDS)
        elif hasattr(hint, "_fields"):
            values[name] = _parts(hint, name, columns)
        elif name in columns:
            values[name] = _parse(name, hint, columns[name])
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise ValueError(f"columns {', '.join(missing)} are missing; is this a file of {kind.__name__}?")
    return kind(**values)


def _parts(kind: Any, prefix: str, columns: Mapping[str, str]) -> Any:
    hints = _hints(kind)
    found = {k: f"{prefix}/{k}" for k in kind._fields if f"{prefix}/{k}" in columns}
    return kind(**{k: _parse(column, hints[k], columns[column]) for k, column in found.items()})


def _parse(column: str, hint: Any, text: str) -> Any:
    try:
        return {"True": True, "False": False}[text] if hint is bool else hint(text)
    except (KeyError, ValueError) as error:
        raise ValueError(f"column {column}: found {text!r}, expected {hint.__name__}") from error
