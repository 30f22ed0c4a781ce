"""A recording for the Rerun viewer (https://rerun.io); needs the extra ``viewers``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from coop3d.files import replacing, safe_name
from coop3d.visualization.colour import vehicle_rgb
from coop3d.visualization.export.cloud import ExportCloud


def write_rrd(path: Path, cloud: ExportCloud) -> Path:
    """Write ``path`` for ``rerun path``: points and pose of every vehicle, reference frame, OpenCV axes, metres.

    Raises:
        ValueError: rerun-sdk is not installed.
    """
    try:
        rr: Any = import_module("rerun")
    except ImportError as error:
        raise ValueError(
            "a Rerun recording needs rerun-sdk: pip install 'coop3d[viewers]', or export another format"
        ) from error
    with replacing(path) as temporary:
        recording = rr.RecordingStream("coop3d")
        recording.save(str(temporary))
        recording.log("world", rr.ViewCoordinates.RDF, static=True)  # x right, y down, z forward
        for k, (name, T) in enumerate(zip(cloud.names, cloud.T_ref_view, strict=True)):
            own, entity = cloud.of_vehicle(k), f"world/{k}_{safe_name(name)}"
            points = rr.Points3D(cloud.points[own], colors=cloud.rgb[own], radii=0.05)
            recording.log(f"{entity}/points", points, static=True)
            if np.isfinite(T).all():
                axes = rr.Arrows3D(
                    origins=np.repeat(T[None, :3, 3], 3, axis=0),
                    vectors=2.0 * T[:3, :3].T,
                    colors=[vehicle_rgb(k)],
                )
                recording.log(f"{entity}/pose", axes, static=True)
        recording.flush()
        recording.disconnect()
    return path
