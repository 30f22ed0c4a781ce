"""Which scores of several entrants mean the same: those of vehicles always, those of pixels only on the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coop3d.benchmark.results import EntrantResult
from coop3d.benchmark.views import views_difference
from coop3d.evaluation import views_per_vehicle

VIEW_FREE = ("pose/", "trajectory/", "registration/")  # scores of vehicles; the others are of a view's pixels
GAINS = ("gain/", "gain_filtered/")
POSES_COMPARE = (
    "Poses compare. Range, scale, mask, confidence and points are not measured alike: shown, but they win nothing and "
    "weigh nothing"
)


def other_pixels(a: EntrantResult, b: EntrantResult) -> str:
    """Why two entrants' scores of pixels do not compare: other views, or another true range; "" where they do."""
    if difference := views_difference(a.views, b.views):
        return difference
    counts = views_per_vehicle(a.rows), views_per_vehicle(b.rows)
    if counts[0] != counts[1]:
        return f"{counts[1]} views per vehicle instead of {counts[0]}"
    known = {row.identity: row.valid_pixels for row in a.rows}
    if any(known.get(row.identity, row.valid_pixels) != row.valid_pixels for row in b.rows):
        return "other pixels have a true range"
    return ""


def about_pixels(entrants: Sequence[EntrantResult]) -> list[str]:
    """A warning where some entrant is not measured as the first is, with what differs."""
    first, *others = entrants
    found = {e.name: why for e in others if (why := other_pixels(first, e))}
    if not found:
        return []
    listed = "; ".join(f"{name} ({why})" for name, why in found.items())
    return [f"OTHER PIXELS OR TRUTH than in {first.name}: {listed}. {POSES_COMPARE}"]


def all_alike(entrants: Sequence[EntrantResult]) -> bool:
    """Whether scores of pixels mean the same in all; oracles do not compete and do not count."""
    fair = [e for e in entrants if e.kind != "oracle"]
    return not (fair and about_pixels(fair))


def same_gain(entrants: Sequence[EntrantResult]) -> bool:
    """Whether the gain by cooperation means the same in all that compete."""
    return len({e.alone for e in entrants if e.kind != "oracle"}) <= 1


def comparable(keys: Iterable[str], pixels: bool, gain: bool) -> tuple[str, ...]:
    """The summary keys that mean the same in all entrants.

    Args:
        keys: of a summary.
        pixels: scores of pixels do, `all_alike`.
        gain: the gain does, `same_gain`.
    """
    of_pixels = [key for key in keys if pixels or key.startswith(VIEW_FREE)]
    return tuple(key for key in of_pixels if gain or not key.startswith(GAINS))
