"""Car bodies: closed meshes whose bounding boxes are what the YAML files report.

Vehicle frame: UE axes, origin on the ground below the middle of the body, x forward, y right, z up, metres.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import mesh, textures
from .mesh import Mesh, MeshBuilder, placed


@dataclass(frozen=True)
class BodyStyle:
    """Side view of a vehicle: a lower hull and a cabin on top, all in metres in the vehicle frame."""

    name: str
    length: float
    width: float
    height: float
    clearance: float
    belt: float  # height of the hull's shoulders
    nose: float  # height of the bonnet's front edge
    cabin: tuple[
        float, float, float, float
    ]  # x of the cabin: front at belt, front at roof, rear at roof, rear at belt
    wheel_radius: float
    tuck: float  # how much narrower the roof is, per side


STYLES = (
    BodyStyle("sedan", 4.7, 1.84, 1.46, 0.17, 0.93, 0.74, (0.95, 0.25, -1.05, -1.85), 0.33, 0.19),
    BodyStyle("hatchback", 4.0, 1.76, 1.5, 0.17, 0.95, 0.78, (0.85, 0.25, -1.45, -1.9), 0.31, 0.17),
    BodyStyle("suv", 4.8, 1.94, 1.8, 0.23, 1.12, 0.98, (1.0, 0.4, -1.85, -2.25), 0.38, 0.15),
    BodyStyle("van", 5.3, 2.0, 2.2, 0.22, 1.2, 1.05, (1.95, 1.25, -2.45, -2.6), 0.36, 0.09),
    BodyStyle("coupe", 4.45, 1.86, 1.32, 0.14, 0.86, 0.66, (0.75, -0.05, -0.9, -1.95), 0.34, 0.22),
    BodyStyle("pickup", 5.4, 1.96, 1.85, 0.26, 1.15, 1.05, (1.25, 0.65, -0.35, -0.7), 0.4, 0.15),
    BodyStyle("truck", 7.6, 2.4, 3.1, 0.4, 1.2, 1.15, (3.72, 3.6, -3.75, -3.78), 0.48, 0.02),
)
CONNECTED_STYLES = (
    0,
    1,
    2,
    4,
)  # the rig's front camera, 2.5 m ahead of the middle, must stay clear of the next bumper
_STYLE_SHARES = (0.27, 0.23, 0.2, 0.1, 0.08, 0.06, 0.06)

_PAINTS = np.array([
    [0.75, 0.75, 0.74], [0.05, 0.05, 0.055], [0.32, 0.33, 0.35], [0.5, 0.52, 0.54], [0.45, 0.03, 0.03],
    [0.04, 0.09, 0.35], [0.02, 0.22, 0.2], [0.6, 0.42, 0.03], [0.1, 0.25, 0.08], [0.28, 0.15, 0.07], [0.65, 0.2, 0.03],
])  # fmt: skip


@dataclass(frozen=True)
class Body:
    """A vehicle's shape: its mesh in the vehicle frame and the box the annotation states."""

    style: str
    mesh: Mesh
    center: NDArray[np.float64]  # [3] middle of the box in the vehicle frame
    extent: NDArray[np.float64]  # [3] half sizes of the box


def make_body(rng: Generator, connected: bool, styles: tuple[int, ...] = CONNECTED_STYLES) -> Body:
    """Draw a vehicle; connected ones are of ``styles``, numbers in ``STYLES``."""
    shares = np.array(_STYLE_SHARES)
    if connected:
        keep = np.zeros(len(STYLES))
        keep[list(styles)] = 1.0
        shares = shares * keep / (shares * keep).sum()
    style = STYLES[rng.choice(len(STYLES), p=shares)]
    paint = np.clip(
        _PAINTS[rng.integers(len(_PAINTS))] * rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3), 0.02, 0.85
    )
    plain = _template(style)
    tint = plain.tint.copy()
    tint[plain.kind == mesh.PAINTWORK] = paint
    built = replace(plain, triangles=plain.triangles * rng.uniform(0.96, 1.04, 3), tint=tint)
    lo, hi = built.triangles.min(axis=(0, 1)), built.triangles.max(axis=(0, 1))
    return Body(style.name, built, 0.5 * (lo + hi), 0.5 * (hi - lo))


def _section(x: float, half: float, low: float, high: float) -> NDArray[np.float64]:
    """[4, 3] corners of an upright rectangle across the car: bottom left, bottom right, top right, top left."""
    return np.array([[x, -half, low], [x, half, low], [x, half, high], [x, -half, high]])


def _loft(b: MeshBuilder, sections: list[NDArray[np.float64]], look) -> None:
    """Join rectangles given from the front to the rear; ``look(i, face)`` gives (kind, layer, tint)."""
    uv = [[0, 0], [1, 0], [1, 1], [0, 1]]
    for i, (p, q) in enumerate(itertools.pairwise(sections)):
        for face, (m, n) in enumerate(((0, 1), (1, 2), (2, 3), (3, 0))):  # bottom, right, top, left
            b.quad([p[n], p[m], q[m], q[n]], uv, *look(i, face))
    b.quad(sections[0], uv, *look(0, 4))
    b.quad(sections[-1][::-1], uv, *look(len(sections) - 2, 5))


@lru_cache(maxsize=len(STYLES))
def _template(s: BodyStyle) -> Mesh:
    """The unpainted mesh of a style; its PAINTWORK takes the car's colour."""
    b = MeshBuilder()
    half_l, half_w = s.length / 2, s.width / 2
    body = (mesh.PAINTWORK, textures.METAL, (0.5, 0.5, 0.5))
    trim = (mesh.PLAIN, textures.METAL, (0.05, 0.05, 0.055))
    glass = (mesh.GLASS, textures.METAL, (0.03, 0.035, 0.04))
    f_belt, f_roof, r_roof, r_belt = s.cabin
    hull = [
        _section(half_l, half_w * 0.8, s.clearance + 0.1, s.nose - 0.06),
        _section(half_l - 0.22, half_w * 0.96, s.clearance, s.nose),
        _section(f_belt + 0.05, half_w, s.clearance, s.belt),
        _section(max(r_belt - 0.05, -half_l + 0.2), half_w, s.clearance, s.belt),
        _section(-half_l + 0.12, half_w * 0.97, s.clearance, s.belt - 0.06),
        _section(-half_l, half_w * 0.88, s.clearance + 0.12, s.belt - 0.12),
    ]
    _loft(b, hull, lambda i, face: trim if face == 0 else body)
    roof_w = half_w - s.tuck
    mid = 0.5 * (f_roof + r_roof)
    cabin_paint = body if s.name != "truck" else (mesh.PLAIN, textures.METAL, (0.85, 0.84, 0.8))
    windows = glass if s.name != "truck" else cabin_paint
    # The cabin: glass all round below, a painted roof above; pillars are thin painted posts.
    sill, roof = s.belt - 0.03, s.height - 0.07
    cabin = np.array([[f_belt, half_w - 0.06], [r_belt, half_w - 0.06], [f_roof, roof_w], [r_roof, roof_w]])
    low = np.array([[cabin[k, 0], y * cabin[k, 1], sill] for k, y in ((0, -1), (0, 1), (1, 1), (1, -1))])
    top = np.array([[cabin[k, 0], y * cabin[k, 1], roof] for k, y in ((2, -1), (2, 1), (3, 1), (3, -1))])
    b.prism(low, top, textures.METAL, windows[2], kind=windows[0])
    lid = top + np.array([0, 0, 0.002])
    crest = lid * np.array([0.97, 0.93, 0.0]) + np.array([mid * 0.03, 0, s.height])
    b.prism(lid, crest, textures.METAL, cabin_paint[2], kind=cabin_paint[0])
    if windows is glass:
        for t in (0.0, 0.46, 1.0):
            for side in (-1, 1):
                x_low, x_top = f_belt + t * (r_belt - f_belt), f_roof + t * (r_roof - f_roof)
                _post(b, x_low, x_top, side * (half_w - 0.06), side * roof_w, sill, roof, body)
    if s.name == "truck":
        b.quad([[3.76, -0.95, 1.35], [3.76, 0.95, 1.35], [3.70, 0.95, 2.2], [3.70, -0.95, 2.2]],
               [[0, 0]] * 4, *glass)  # fmt: skip
    _wheels(b, s, half_l, half_w)
    _fittings(b, s, half_l, half_w, trim)
    return b.build()


def _post(b: MeshBuilder, x0, x1, y0, y1, z0, z1, look) -> None:
    w, o = 0.05, 0.012 * np.sign(y0)
    low = np.array(
        [[x0 + dx, y0 + o + dy, z0] for dx, dy in ((-w, -0.02), (w, -0.02), (w, 0.02), (-w, 0.02))]
    )
    top = np.array(
        [[x1 + dx, y1 + o + dy, z1] for dx, dy in ((-w, -0.02), (w, -0.02), (w, 0.02), (-w, 0.02))]
    )
    b.prism(low, top, look[1], look[2], kind=look[0])


def _wheels(b: MeshBuilder, s: BodyStyle, half_l: float, half_w: float) -> None:
    n, tyre, hub, arch = 12, (0.035,) * 3, (0.38,) * 3, (0.02,) * 3
    a = np.arange(n) * (2 * np.pi / n)
    for x in (half_l * 0.62, -half_l * 0.6):
        circle = np.stack([np.cos(a), np.zeros(n), np.sin(a)], axis=1) * s.wheel_radius
        middle = np.array([x, 0.0, s.wheel_radius])
        for side in (-1, 1):
            # Seen as x -> z the ring turns about -y, so the tube starts on the +y side.
            ends = sorted((side * (half_w - 0.2), side * (half_w + 0.025)), reverse=True)
            b.prism(
                circle + middle + [0, ends[0], 0], circle + middle + [0, ends[1], 0], textures.METAL, tyre
            )
            for size, out, tint in (
                (0.6, 0.03, hub),
                (1.22, 0.005, arch),
            ):  # rim; dark wheel house behind the tyre
                face = size * circle + middle + [0, side * (half_w + out), 0]
                face[:, 2] = np.maximum(face[:, 2], s.clearance + 0.02)
                fan = np.stack([np.repeat(face[:1], n - 2, 0), face[1:-1], face[2:]], axis=1)
                b.add(
                    fan[:, ::-1] if side > 0 else fan,
                    np.zeros((n - 2, 3, 2)),
                    mesh.PLAIN,
                    textures.METAL,
                    tint,
                )


def _fittings(b: MeshBuilder, s: BodyStyle, half_l: float, half_w: float, trim) -> None:
    """Lamps, number plates, bumpers, mirrors: what tells the front from the rear."""
    head, tail = (0.95, 0.93, 0.85), (0.75, 0.03, 0.02)
    z_head, z_tail = s.nose - 0.2, s.belt - 0.3
    for side in (-1, 1):
        y = side * half_w * 0.6
        b.box(placed(half_l - 0.05, y, z_head), (0.12, 0.34, 0.13), textures.METAL, head, kind=mesh.LAMP)
        b.box(placed(-half_l + 0.06, side * half_w * 0.7, z_tail), (0.13, 0.3, 0.17), textures.METAL, tail,
              kind=mesh.LAMP)  # fmt: skip
        if s.name != "truck":
            b.box(placed(s.cabin[0] - 0.25, side * (half_w + 0.05), s.belt), (0.12, 0.16, 0.13), *trim[1:])
    b.box(placed(half_l - 0.06, 0, s.clearance + 0.05), (0.14, s.width * 0.74, 0.16), *trim[1:])
    b.box(placed(-half_l + 0.06, 0, s.clearance + 0.05), (0.14, s.width * 0.8, 0.18), *trim[1:])
    for x in (half_l + 0.012, -half_l - 0.012):
        b.box(placed(x, 0, s.clearance + 0.28), (0.02, 0.5, 0.12), textures.METAL, (1.2, 1.2, 1.1))
