"""Drives of one vehicle seen from another: their place in the report, and where they went."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from coop3d.benchmark.cells import cell, score_cells
from coop3d.benchmark.figures import INK, WIDE, figure, styles
from coop3d.benchmark.results import EntrantResult, Result
from coop3d.evaluation import TrajectoryRow, tracks
from coop3d.evaluation.labels import family_titles
from coop3d.visualization.documents import card, table
from coop3d.visualization.pages import Markup, escape

COLUMNS = family_titles("trajectory/")
SHOWN, DRAWN = 12, 2  # drives in the table, and in the picture
MODELS = 3  # in the picture


def trajectory_card(result: Result) -> Markup:
    """Medians of every entrant and the first one's worst drives, or why there are none."""
    first = result.entrants[0]
    if not first.trajectories:
        return card(
            "Trajectories", f'<p class="quiet">{escape(f"Not measured: {first.trajectory_note}.")}</p>'
        )
    head, rows = score_cells(result.entrants, COLUMNS)
    classes = ["" if e.kind == "checkpoint" else "other" for e in result.entrants]
    worst = sorted(first.trajectories, key=lambda t: (-t.ate_m, t.identity))[:SHOWN]
    labels = ["drive", "poses", "step [frames]", *COLUMNS.values()]
    drives = table(labels, [(_label(t), _cells(t)) for t in worst])
    count = len(first.trajectories)
    which = f"The {len(worst)} worst of {count}" if count > len(worst) else f"All {count}"
    about = (
        "Small print: predicted poses of one vehicle over consecutive frames, placed in the world by the true "
        "poses of the reference. RMS values, medians over drives. Aligned: after the best rigid fit, which a "
        "straight drive does not have."
    )
    title = (
        f'<p class="quiet">{escape(f"{which} drives of {first.name}; every one is in trajectory.csv.")}</p>'
    )
    return card("Trajectories", f"{table(head, rows, classes)}{title}{drives}", about)


def _label(row: TrajectoryRow) -> str:
    return f"{row.scenario}: {row.agent} seen from {row.reference_agent}, from {row.first_frame}"


def _cells(row: TrajectoryRow) -> list[str]:
    numbers = [cell(key, getattr(row, key.split("/")[1])) for key in COLUMNS]
    return [f"<td>{row.poses}</td>", f"<td>{row.step}</td>", *numbers]


def draw_tracks(result: Result) -> Figure | None:
    """The longest drives from above, true and as the models saw them."""
    if not result.models or not result.models[0].trajectories:
        return None
    longest = sorted(result.models[0].trajectories, key=lambda t: (-t.poses, t.identity))[:DRAWN]
    fig, axes = figure(columns=len(longest), height=3.2, width=WIDE)
    look = styles(result.entrants)
    for ax, drive in zip(axes, longest, strict=True):
        for entrant in result.models[:MODELS]:
            found = _positions(entrant, drive)
            if found is None:
                continue
            true, pred = found
            if entrant is result.models[0]:
                ax.plot(*true, color=INK, linewidth=1.2, marker="o", markersize=3, label="true")
            ax.plot(*pred, marker="o", markersize=3, label=entrant.name, **look[entrant.name]._asdict())
        ax.set(title=f"{drive.scenario}: {drive.agent} from {drive.reference_agent}", aspect="equal")
        ax.set(xlabel="x [m]", ylabel="z [m]", adjustable="datalim")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=MODELS + 1)
    return fig


def _positions(entrant: EntrantResult, drive: TrajectoryRow) -> tuple[tuple, tuple] | None:
    """((x, z) of the truth, (x, z) predicted) of one drive of an entrant."""
    wanted = (drive.scenario, drive.reference_agent)
    rows = [r for r in entrant.rows if (r.scenario, r.reference_agent, r.agent) == (*wanted, drive.agent)]
    samples = [s for s in entrant.samples if (s.scenario, s.reference_agent) == wanted]
    for track in tracks(rows, samples):
        if track.rows[0].frame == drive.first_frame:
            return tuple((T[:, 0, 3], T[:, 2, 3]) for T in (track.true, track.pred))  # type: ignore[return-value]
    return None


def has_poses(result: Result) -> bool:
    """Whether any pose of another vehicle is scored."""
    return math.isfinite(result.entrants[0].summary.get("pose/translation_m/median", math.nan))
