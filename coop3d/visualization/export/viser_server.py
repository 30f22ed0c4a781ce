"""The cloud in a running viser viewer (https://viser.studio), for clouds too large for a page; needs `viewers`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from coop3d.visualization.colour import vehicle_rgb
from coop3d.visualization.export.cloud import ExportCloud


def serve_viser(cloud: ExportCloud, port: int = 8080, host: str = "127.0.0.1") -> Any:
    """Start a server that shows points and pose of every vehicle: reference frame, OpenCV axes, metres.

    Args:
        cloud: from `export_cloud`.
        port: viser takes the next free one if it is in use.
        host: by default this machine alone; over SSH, forward the port (``ssh -L 8080:localhost:8080``).

    Returns:
        viser's server; ``server.sleep_forever()`` keeps it up, ``server.stop()`` ends it.

    Raises:
        ValueError: viser is not installed.
    """
    try:
        viser: Any = import_module("viser")
    except ImportError as error:
        raise ValueError("--viser needs viser: pip install 'coop3d[viewers]'") from error
    server = viser.ViserServer(host=host, port=port, verbose=False)
    server.scene.set_up_direction("-y")
    for k, (name, T) in enumerate(zip(cloud.names, cloud.T_ref_view, strict=True)):
        own = cloud.of_vehicle(k)
        server.scene.add_point_cloud(
            f"/{k} {name}/points", cloud.points[own], cloud.rgb[own], point_size=0.05, precision="float32"
        )
        if np.isfinite(T).all():
            wxyz = Rotation.from_matrix(T[:3, :3]).as_quat()[[3, 0, 1, 2]]
            server.scene.add_frame(
                f"/{k} {name}/pose", axes_length=2.0, axes_radius=0.05, origin_color=vehicle_rgb(k), wxyz=wxyz,
                position=T[:3, 3],
            )  # fmt: skip
    return server
