"""Everything that is written of one inspected sample: page, pictures, numbers, exports."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coop3d.files import safe_name
from coop3d.training.inspection.chosen import Chosen
from coop3d.training.inspection.sample import Inspection
from coop3d.training.inspection.summary import page_numbers, sample_summary, write_summary
from coop3d.visualization import (
    caption,
    grid,
    prediction_figure,
    preset,
    remove_view_pictures,
    render_scene,
    save_png,
    save_view_pictures,
    write_scene_html,
)
from coop3d.visualization.export import write_exports
from coop3d.visualization.export.cloud import Kind

log = logging.getLogger(__name__)

PICTURE_POINTS = 500_000  # of a render, which need not be sent to anybody's browser


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to write of a sample, and where.

    Attributes:
        folder: for the page, renders, pictures of the views and the summary, named after scenario, frame and
            reference. Pictures of views that the sample had there before and now lacks are removed.
        page: the page instead; where there is no folder either, ``pointcloud.html``.
        picture: panoramas, range, error, mask and a render of the cloud in one PNG.
        views: folder for PNGs of every view.
        summary: JSON of pose, scale and depth statistics.
        formats: exports beside the page, of `EXPORT_FORMATS`.
        max_points: of all clouds of the page together, and of an export.
        seed: of the subsampling.
    """

    folder: Path | None = None
    page: Path | None = None
    picture: Path | None = None
    views: Path | None = None
    summary: Path | None = None
    formats: Sequence[str] = ()
    max_points: int = 200_000
    seed: int = 0

    def write(self, chosen: Chosen) -> None:
        """Write all of it, and log where it is."""
        inspection, stem = chosen.inspection, safe_name(chosen.inspection.stem)
        page = self.page or (self.folder / f"{stem}.html" if self.folder else Path("pointcloud.html"))
        scene = inspection.scene(self.max_points, self.seed)
        write_scene_html(page, scene, page_numbers(inspection), chosen.note)
        log.info("wrote %s (%.1f MB)", page, page.stat().st_size / 1e6)
        self._write_pictures(inspection, stem)
        summary = self.summary or (self.folder / f"{stem}_summary.json" if self.folder else None)
        if summary is not None:
            write_summary(summary, sample_summary(inspection, **chosen.facts))
            log.info("wrote %s", summary)
        if self.formats:
            around, cloud = inspection.surroundings, inspection.cloud(self.max_points, self.seed)
            for path in write_exports(
                page.parent, stem, self.formats, cloud, inspection.inputs, inspection.targets,
                T_lidar_ref=around.T_lidar_ref, T_world_ref=around.T_world_ref,
            ):  # fmt: skip
                log.info("wrote %s", path)

    def _write_pictures(self, inspection: Inspection, stem: str) -> None:
        views = self.views or (self.folder / f"{stem}_views" if self.folder else None)
        if self.picture is None and views is None:
            return
        scene = inspection.scene(max(self.max_points, PICTURE_POINTS), self.seed)
        kind: Kind = "truth" if inspection.shown is None else "predicted"
        sample = (inspection.inputs, inspection.targets, inspection.shown)
        if self.picture is not None:
            panels = prediction_figure(*sample, inspection.keys)
            width = max(1280, panels.shape[1])
            render = render_scene(scene, preset(scene, "oblique", (width, width * 9 // 16)), kind)
            named = caption(render, f"{kind} points of all vehicles".capitalize())
            save_png(self.picture, grid([panels, named], columns=1))
            log.info("wrote %s", self.picture)
        if views is not None:
            written = save_view_pictures(views, *sample, inspection.keys)
            if self.views is None:
                remove_view_pictures(views, but=written)
            log.info("wrote %d pictures to %s", len(written), views)
        if self.folder is not None:
            oblique = render_scene(scene, preset(scene, "oblique"), kind)
            save_png(self.folder / f"{stem}_oblique.png", oblique)
            top = render_scene(scene, preset(scene, "top"), kind, "vehicle")
            save_png(self.folder / f"{stem}_top.png", top)
