"""Procedural, tileable, mip-mapped textures: the paint of a town, drawn anew from every town's seed.

A texture is [S, S, 4] uint8: linear-light-ish albedo in RGB, and in A the share of the texel that is *glass* (facades:
replaced by a per-window colour) or *cloud density* (sky). Nothing is read from disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIZE = 256
LEVELS = 9

# Layers of the atlas. Facades and shop fronts are families: each town draws its own members.
ASPHALT, PAVING, GRASS, BRICK, PLASTER, ROOF, FOLIAGE, BARK, METAL, CLOUDS, CONCRETE, HEDGE = range(12)
FACADE_0, N_FACADES = 12, 10
SHOP_0, N_SHOPS = 22, 5
SIGN_0, N_SIGNS = 27, 4
N_LAYERS = SIGN_0 + N_SIGNS

# Metres covered by one repeat of the texture (facades: the mesh chooses).
PERIOD_M = {
    ASPHALT: 3.1, PAVING: 2.4, GRASS: 3.7, BRICK: 1.6, PLASTER: 4.0, ROOF: 2.4, FOLIAGE: 2.3, BARK: 0.9, METAL: 1.0,
    CLOUDS: 1.0, CONCRETE: 2.8, HEDGE: 1.7,
}  # fmt: skip


_SHUTTERS = (
    (0.1, 0.22, 0.14), (0.12, 0.17, 0.28), (0.35, 0.12, 0.09), (0.3, 0.22, 0.14), (0.55, 0.54, 0.5), (0.08, 0.08, 0.09),
    (0.33, 0.4, 0.42),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Paint:
    """What the surfaces of a domain are made of.

    Attributes:
        asphalt, paving, grass: linear RGB before it varies from town to town.
        walls: what each facade in turn is made of: 0, 1 brick, 2 boards, 3 plaster, 4 panels, 5 corrugated sheet.
        ribbon: share of facades whose windows form a band.
        window: smallest and largest share of a cell's width that its window takes.
    """

    asphalt: tuple[float, float, float] = (0.185, 0.184, 0.187)
    paving: tuple[float, float, float] = (0.4, 0.38, 0.355)
    grass: tuple[float, float, float] = (0.15, 0.22, 0.07)
    walls: tuple[int, ...] = (0, 1, 2, 3, 4)
    ribbon: float = 0.2
    window: tuple[float, float] = (0.32, 0.62)


@dataclass(frozen=True)
class Atlas:
    """All textures of a town; level ``l`` of layer ``i`` begins at ``offset[l] + i * side**2``."""

    texels: NDArray[np.uint32]  # [total] 0xAABBGGRR
    offset: NDArray[np.int64]  # [LEVELS]


def make_atlas(rng: Generator, paint: Paint | None = None) -> Atlas:
    """Draw the textures of one town."""
    paint = paint or Paint()
    chains = [_mip_chain(_layer(i, rng, paint)) for i in range(N_LAYERS)]
    parts, offset, start = [], [], 0
    for level in range(LEVELS):
        parts += [chain[level] for chain in chains]
        offset.append(start)
        start += N_LAYERS * (SIZE >> level) ** 2
    return Atlas(np.concatenate(parts).view("<u4").ravel(), np.array(offset, dtype=np.int64))


def _mip_chain(tex: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """[S, S, 4] in 0..1 -> [side^2, 4] uint8 for sides S, S/2, ... 1."""
    out = []
    for level in range(LEVELS):
        side = SIZE >> level
        if level:
            tex = cv2.resize(tex, (side, side), interpolation=cv2.INTER_AREA)
        out.append(cv2.convertScaleAbs(np.clip(tex, 0.0, 1.0), alpha=255.0).reshape(-1, 4))
    return out


def _noise(rng: Generator, octaves: tuple[int, ...], gain: float = 0.6) -> NDArray[np.float32]:
    """Tileable value noise, zero mean, unit standard deviation; ``octaves`` are cells per tile."""
    out = np.zeros((SIZE, SIZE), np.float32)
    weight = 1.0
    for cells in octaves:
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        pad = np.pad(grid, 2, mode="wrap")
        big = cv2.resize(pad, None, fx=SIZE / cells, fy=SIZE / cells, interpolation=cv2.INTER_CUBIC)
        margin = 2 * SIZE // cells
        out += weight * big[margin : margin + SIZE, margin : margin + SIZE]
        weight *= gain
    out -= out.mean()
    return out / (out.std() + 1e-6)


def _flat(rgb, noise=None, amount: float = 0.1) -> NDArray[np.float32]:
    tex = np.zeros((SIZE, SIZE, 4), np.float32)
    tex[..., :3] = np.asarray(rgb, np.float32)
    if noise is not None:
        tex[..., :3] *= np.clip(1.0 + amount * noise, 0.2, 1.9)[..., None]
    return tex


def _bricks(rng: Generator, rows: int, cols: int, mortar: float, spread: float):
    """Brick pattern: per-texel brightness around 1 [S, S] and a mortar mask [S, S]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    row = np.floor(y * rows).astype(int)
    shift = np.where(row % 2 == 0, 0.0, 0.5)
    col = np.floor(x * cols + shift).astype(int) % cols
    tone = 1.0 + spread * rng.standard_normal((rows, cols))
    fy, fx = (y * rows) % 1.0, (x * cols + shift) % 1.0
    gap = (fy < mortar) | (fx < mortar * cols / rows)
    return tone[row % rows, col].astype(np.float32), gap


def _layer(i: int, rng: Generator, paint: Paint) -> NDArray[np.float32]:
    fine = _noise(rng, (16, 32, 64, 128), 0.8)
    if i == ASPHALT:
        grain = rng.standard_normal((SIZE, SIZE)).astype(np.float32) * 0.6 + _noise(rng, (64, 128), 1.1)
        tex = _flat(np.array(paint.asphalt) * rng.uniform(0.75, 1.2), grain, 0.085)
        tex[..., :3] *= (1.0 + 0.035 * _noise(rng, (4, 8, 16)))[..., None]
        return tex
    if i in (PAVING, CONCRETE):
        tone, gap = _bricks(rng, int(rng.choice([2, 3, 4])), 2, 0.02 if i == CONCRETE else 0.04, 0.07)
        tex = _flat(np.array(paint.paving) * rng.uniform(0.8, 1.1), fine, 0.07)
        tex[..., :3] *= (tone * np.where(gap, 0.62, 1.0))[..., None]
        return tex
    if i in (GRASS, HEDGE):
        base = np.array(paint.grass) * rng.uniform(0.8, 1.2, 3)
        tex = _flat(base, _noise(rng, (8, 32, 64, 128), 1.0), 0.34)
        tex[..., 0] *= 1.0 + 0.25 * _noise(rng, (4, 8, 16))
        return tex
    if i == BRICK:
        tone, gap = _bricks(rng, 16, 6, 0.14, 0.13)
        tex = _flat([0.62, 0.6, 0.58], fine, 0.07)
        tex[..., :3] *= tone[..., None]
        tex[gap, :3] = [0.62, 0.6, 0.56]
        return tex
    if i == PLASTER:
        return _flat([0.66, 0.65, 0.63], _noise(rng, (3, 8, 32, 128), 0.7), 0.07)
    if i == ROOF:
        y, _x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
        tone, _ = _bricks(rng, 8, 12, 0.1, 0.12)
        tex = _flat([0.6, 0.58, 0.57], fine, 0.08)
        tex[..., :3] *= (tone * (0.65 + 0.5 * ((y * 8) % 1.0)))[..., None]
        return tex
    if i == FOLIAGE:
        blotch = _noise(rng, (8, 16, 32), 1.0)
        leaf = _noise(rng, (64, 128), 0.8)
        tex = _flat([0.55, 0.55, 0.5], np.maximum(blotch, -1.4), 0.36)
        tex[..., :3] *= np.clip(1.0 + 0.4 * leaf, 0.25, 1.9)[..., None]
        tex[leaf + 0.7 * blotch < -1.5, :3] *= 0.3  # gaps
        return tex
    if i == BARK:
        streaks = cv2.blur(_noise(rng, (64, 128), 1.0), (1, 31))
        return _flat([0.5, 0.47, 0.44], streaks / (streaks.std() + 1e-6), 0.25)
    if i == METAL:
        return _flat([0.6, 0.6, 0.6], fine, 0.05)
    if i == CLOUDS:
        puff = _noise(rng, (3, 6, 12, 24, 48), 0.62)
        tex = _flat([1.0, 1.0, 1.0])
        tex[..., 3] = np.clip(0.5 + 0.22 * puff, 0, 1)
        tex[..., :3] = np.clip(0.86 + 0.07 * _noise(rng, (6, 12, 24)), 0.5, 1.0)[..., None]
        return tex
    if FACADE_0 <= i < FACADE_0 + N_FACADES:
        return _facade(rng, fine, i - FACADE_0, paint)
    if SHOP_0 <= i < SHOP_0 + N_SHOPS:
        return _shop_front(rng, fine)
    return _sign(rng)


def _facade(rng: Generator, fine: NDArray[np.float32], kind: int, paint: Paint) -> NDArray[np.float32]:
    """One window cell (row 0 at the top): wall, frame, panes, sill, sometimes bands and shutters."""
    wall = paint.walls[kind % len(paint.walls)]
    if wall in (0, 1):
        tone, gap = _bricks(rng, 24, 9, 0.16, 0.12)
        tex = _flat([0.62, 0.6, 0.58], fine, 0.05)
        tex[..., :3] *= tone[..., None]
        tex[gap, :3] *= rng.uniform(0.6, 1.35)
    elif wall == 2:  # weather-boards
        y = np.mgrid[0:SIZE, 0:SIZE][0] / SIZE
        boards = int(rng.integers(12, 20))
        tex = _flat([0.66, 0.65, 0.64], fine, 0.04)
        tex[..., :3] *= (0.78 + 0.3 * ((y * boards) % 1.0))[..., None]
    elif wall == 5:  # corrugated sheet
        x = np.mgrid[0:SIZE, 0:SIZE][1] / SIZE
        waves = int(rng.integers(14, 26))
        tex = _flat([0.6, 0.61, 0.62], fine, 0.05)
        tex[..., :3] *= (0.88 + 0.22 * np.sin(2 * np.pi * waves * x))[..., None]
    else:
        tex = _flat([0.66, 0.65, 0.63], _noise(rng, (4, 16, 64, 128), 0.7), 0.06)
        if wall == 4:  # concrete panels
            tex[:5, :, :3] *= 0.6
            tex[:, :4, :3] *= 0.65
    ribbon = rng.uniform() < paint.ribbon
    w = SIZE if ribbon else int(SIZE * rng.uniform(*paint.window))
    h = int(SIZE * rng.uniform(0.38, 0.62))
    x0, y0 = (SIZE - w) // 2, int(SIZE * rng.uniform(0.14, 0.28))
    frame = rng.uniform(0.15, 0.95) * np.array([1.0, 0.97, 0.92])
    f = int(rng.integers(6, 13))
    if not ribbon and rng.uniform() < 0.35:  # shutters
        sw = int(w * 0.32)
        shade = np.array(_SHUTTERS[rng.integers(len(_SHUTTERS))]) * rng.uniform(0.7, 1.2)
        for sx in (x0 - sw - f, x0 + w + f):
            a, b = max(sx, 0), min(sx + sw, SIZE)
            tex[y0 : y0 + h, a:b, :3] = shade
            tex[y0 : y0 + h : 8, a:b, :3] *= 0.6
    a, b = max(x0 - f, 0), min(x0 + w + f, SIZE)
    tex[y0 - f : y0 + h + f, a:b, :3] = frame
    tex[y0 + h + f : y0 + h + 2 * f + 4, max(a - 6, 0) : b + 6, :3] = [0.72, 0.7, 0.66]  # sill
    tex[y0 + h + 2 * f + 4 : y0 + h + 2 * f + 10, max(a - 6, 0) : b + 6, :3] *= 0.55  # its shadow
    panes_x, panes_y, bar = int(rng.integers(1, 4)), int(rng.integers(1, 4)), max(3, f // 2)
    for py in range(panes_y):
        for px in range(panes_x):
            ya, yb = y0 + py * h // panes_y + bar, y0 + (py + 1) * h // panes_y - bar
            xa, xb = x0 + px * w // panes_x + bar, x0 + (px + 1) * w // panes_x - bar
            tex[ya:yb, xa:xb, 3] = 1.0
    if rng.uniform() < 0.4:  # string course between storeys
        tex[-14:, :, :3] = frame * 0.8
        tex[-4:, :, :3] *= 0.6
    if rng.uniform() < 0.3:  # pilasters
        tex[:, :14, :3] = tex[:, :14, :3] * 0.4 + 0.36
        tex[:, 14:18, :3] *= 0.6
    return tex


def _shop_front(rng: Generator, fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ground floor of one cell: plinth, display windows, a door."""
    tex = _flat(np.array([0.5, 0.48, 0.45]) * rng.uniform(0.5, 1.3), fine, 0.06)
    top, bottom = int(SIZE * rng.uniform(0.2, 0.3)), int(SIZE * rng.uniform(0.78, 0.92))
    frame = np.array(_SHUTTERS[rng.integers(len(_SHUTTERS))])
    door = int(rng.integers(0, 3))
    for k in range(3):
        xa, xb = k * SIZE // 3 + 8, (k + 1) * SIZE // 3 - 8
        yb = SIZE - 6 if k == door else bottom
        tex[top - 8 : yb + 4, xa - 6 : xb + 6, :3] = frame
        tex[top:yb, xa:xb, 3] = 1.0
        if k == door:
            tex[SIZE // 2 + 20 : SIZE // 2 + 30, xa:xb, 3] = 0.0
    tex[: top - 16, :, :3] *= rng.uniform(0.4, 1.0)
    return tex


def _sign(rng: Generator) -> NDArray[np.float32]:
    """Lettering that spells nothing: strokes on a board; the mesh tints the board, A marks the letters."""
    tex = _flat([0.75, 0.75, 0.75])
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    x = 14
    while x < SIZE - 40:
        w, top, base = int(rng.integers(18, 38)), int(rng.integers(50, 90)), int(rng.integers(170, 206))
        thick = int(rng.integers(7, 13))
        for _ in range(int(rng.integers(2, 5))):
            p = (x + int(rng.integers(0, w)), int(rng.integers(top, base)))
            q = (x + int(rng.choice([0, w])), int(rng.choice([top, (top + base) // 2, base])))
            cv2.line(canvas, p, q, 255, thick)
        if rng.uniform() < 0.5:
            cv2.ellipse(
                canvas, (x + w // 2, (top + base) // 2), (w // 2, (base - top) // 2), 0, 0, 360, 255, thick
            )
        x += w + int(rng.integers(10, 22))
    ink = rng.uniform(0.0, 1.0, 3) if rng.uniform() < 0.4 else np.full(3, 0.95)
    mask = canvas[..., None] / 255.0
    tex[..., :3] = tex[..., :3] * (1 - mask) + ink * mask
    tex[:10, :, :3] *= 0.5
    tex[-10:, :, :3] *= 0.5
    return tex
