"""What scores are called, which way they improve and how they are written: one place for tables, plots and pages."""

from __future__ import annotations

from typing import NamedTuple


class Label(NamedTuple):
    """Names of one score; "" where no table or picture of that kind shows it."""

    title: str = ""  # in tables of pages and above pictures
    column: str = ""  # in the console's table of entrants
    short: str = ""  # in the wide tables of disturbances
    axis: str = ""  # of the radar plot


LABELS = {  # by summary key, in the order of tables
    "pose/translation_m/median": Label("translation, median [m]", "t med [m]", "transl. [m]", "translation"),
    "pose/translation_m/p90": Label("translation, 90 % [m]", "t 90% [m]"),
    "pose/rotation_deg/median": Label("rotation, median [deg]", "R med [deg]", "rot. [deg]", "rotation"),
    "pose/yaw_deg/median": Label("yaw, median [deg]", "yaw med [deg]"),
    "pose/direction_deg/median": Label("direction, median [deg]", "dir med [deg]", axis="direction"),
    "pose/sign_flip_rate": Label("wrong side of the vehicle"),
    "pose/recall_2m_2deg": Label("within 2 m, 2 deg", "rec 2m2deg", "in 2 m, 2 deg"),
    "pose/recall_5m_5deg": Label("within 5 m, 5 deg", "rec 5m5deg"),
    "scale/error/median": Label("scale off by", "scale err", "scale off by", "scale"),
    "range/abs_rel": Label("AbsRel", "AbsRel", "AbsRel", "AbsRel"),
    "range/rmse_m": Label("RMSE [m]", axis="range RMSE"),
    "range/abs_rel_aligned": Label("AbsRel aligned", "AbsRel al.", "AbsRel al."),
    "range/delta_125": Label("within 1.25x", "d<1.25", axis="d < 1.25"),
    "mask/iou": Label("mask IoU", "mask IoU", "mask IoU", "mask IoU"),
    "confidence/log": Label("mean log confidence", short="log conf."),
    "confidence/ause": Label("AUSE of confidence", short="AUSE"),
    "confidence/spearman": Label("rank correlation of confidence", short="rank corr."),
    "points_filtered/chamfer_m": Label("chamfer [m]"),
    "points_filtered/fscore_50cm": Label("F at 50 cm"),
    "gain_filtered/fscore_50cm": Label("gain in F by cooperation"),
    "trajectory/ate_m/median": Label("ATE [m]"),
    "trajectory/ate_aligned_m/median": Label("ATE aligned [m]"),
    "trajectory/rpe_m/median": Label("RPE [m per step]"),
    "trajectory/rpe_deg/median": Label("RPE [deg per step]"),
    "registration/maa": Label("mAA"),
    "registration/clusterness": Label("clusterness"),
    "registration/score": Label("score"),
    "registration/registered_50cm": Label("within 0.5 m"),
    "registration/registered_1m": Label("1 m"),
    "registration/registered_2m": Label("2 m"),
    "registration/registered_5m": Label("5 m"),
    "registration/registered_10m": Label("10 m"),
}
# Beginnings of the last part of a summary key.
_HIGHER = (
    "recall", "precision", "fscore", "delta", "auc", "spearman", "maa", "clusterness", "registered", "score",
)  # fmt: skip
_LOWER = (
    "translation", "rotation", "yaw", "direction", "sign_flip_rate", "abs_rel", "rmse", "mae", "error", "pooled",
    "angle", "ause", "accuracy", "completeness", "chamfer", "ate", "rpe", "empty",
)  # fmt: skip
_SHARES = ("recall", "delta", "sign_flip_rate")


def title_of(key: str) -> str:
    """A score's title; the key itself where it has none."""
    return LABELS[key].title if key in LABELS else key


def titles(*keys: str) -> dict[str, str]:
    """Key to title."""
    return {key: title_of(key) for key in keys}


def family_titles(*families: str) -> dict[str, str]:
    """Key to title of all scores in `LABELS` whose key begins with one of ``families``."""
    return {key: label.title for key, label in LABELS.items() if key.startswith(families)}


def better(key: str) -> str | None:
    """Which way a summary key improves: "higher", "lower", or None where neither is meant (counts)."""
    name = key.removesuffix("/median").removesuffix("/mean").removesuffix("/p90").rsplit("/", 1)[-1]
    if name.startswith(_HIGHER) or name.endswith("iou"):
        return "higher"
    return "lower" if name.startswith(_LOWER) else None


def directed(key: str, name: str = "") -> str:
    """A score's name (else its key) with an arrow to the better side, where there is one; they stay on one line."""
    arrow = {"higher": "\u00a0↑", "lower": "\u00a0↓", None: ""}[better(key)]
    return f"{name or key}{arrow}"


def is_share(key: str) -> bool:
    """Whether a score is written in per cent."""
    return key.rsplit("/", 1)[-1].startswith(_SHARES)
