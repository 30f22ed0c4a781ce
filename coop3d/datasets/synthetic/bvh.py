"""A small exact ray tracer: a bounding volume hierarchy over triangles, compiled with numba.

Two ways to ask the same question, both in float64:

- :func:`trace_packet` for rays that share an origin (all pixels of a pinhole image, all shots of a LiDAR sweep).
  64 neighbouring rays walk the hierarchy together; with a common origin a triangle becomes three planes through
  that origin, so one test costs nine multiplications per ray and no division. This is what renders.
- :func:`trace_rays` for arbitrary rays, one by one (Moeller-Trumbore). Slower, written independently on purpose:
  it answers :meth:`Scenario.trace`, against which the tests hold the renderer.

Every mesh is closed and its triangles are wound so that ``cross(v1 - v0, v2 - v0)`` points outwards *in the
algebraic sense* (plain cross product of coordinates, whatever the handedness of the axes). Packets skip triangles
seen from behind, single rays do not.

The hierarchy has two roots: the town, which never changes, and the moving vehicles, rebuilt every instant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

PACKET = 64
FAR = 1e30  # stands for infinity inside compiled loops, where fast-math forbids the real one
_BINS = 12
_LEAF = 4
_FAST = {"contract", "reassoc", "nsz", "arcp"}


class Bvh(NamedTuple):
    """Hierarchy over ``triangles``; leaf ``i`` owns triangles ``first[i] .. first[i] + size[i]``.

    ``bounds`` is [nodes, 6] (min xyz, max xyz); inner nodes have ``size == 0`` and children ``first``,
    ``first + 1``. ``order`` maps the sorted triangles back to the order they were given in.
    """

    bounds: NDArray[np.float64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    triangles: NDArray[np.float64]  # [N, 3, 3] vertices, sorted by leaf
    order: NDArray[np.int64]  # [N]


class Hierarchy(NamedTuple):
    """What the tracers take: a hierarchy, whose vehicle each triangle is, and from what number they count."""

    bvh: Bvh
    owner: NDArray[np.int64]  # [N]
    id_offset: int


def build_bvh(triangles: NDArray[np.float64]) -> Bvh:
    """Build a hierarchy with the binned surface-area heuristic over [N, 3, 3] triangles (N may be 0)."""
    tris = np.ascontiguousarray(triangles, dtype=np.float64).reshape(-1, 3, 3)
    if len(tris) == 0:
        bounds = np.array([[FAR, FAR, FAR, FAR, FAR, FAR]])  # a box no ray reaches
        return Bvh(bounds, np.zeros(1, np.int64), np.zeros(1, np.int64), tris, np.zeros(0, np.int64))
    bounds, first, count, order, used = _build(tris)
    return Bvh(bounds[:used].copy(), first[:used].copy(), count[:used].copy(), tris[order], order)


@njit(cache=True)
def _build(tris):
    n = len(tris)
    order = np.arange(n)
    boxes = _boxes(tris)
    # Of each node: the box around its triangles, and the one around their centres.
    bounds, centres = np.empty((2 * n, 6)), np.empty((2 * n, 6))
    first, count = np.zeros(2 * n, np.int64), np.zeros(2 * n, np.int64)
    bins, bin_n = np.empty(n, np.int64), np.empty(_BINS, np.int64)
    bin_box, bin_centres, cost = np.empty((_BINS, 6)), np.empty((_BINS, 6)), np.empty((2, _BINS))
    _sort_into_bins(boxes, order, bins, bin_n, bin_box, bin_centres, 0, 0.0, 0.0)  # all in the first
    bounds[0], centres[0] = bin_box[0], bin_centres[0]
    used = 1
    stack = [(0, 0, n)]
    while len(stack) > 0:
        node, start, stop = stack.pop()
        axis, extent = 0, centres[node, 3] - centres[node, 0]
        for a in range(1, 3):
            if centres[node, a + 3] - centres[node, a] > extent:
                axis, extent = a, centres[node, a + 3] - centres[node, a]
        if stop - start <= _LEAF or extent <= 1e-9:
            first[node], count[node] = start, stop - start
            continue
        own, own_bins = order[start:stop], bins[start:stop]
        scale = _BINS / extent
        _sort_into_bins(boxes, own, own_bins, bin_n, bin_box, bin_centres, axis, centres[node, axis], scale)
        cut = _best_cut(bin_n, bin_box, cost)
        middle = start + _partition(own, own_bins, cut)
        for child, begin, end in ((used, 0, cut), (used + 1, cut, _BINS)):
            bounds[child], centres[child] = bin_box[begin], bin_centres[begin]
            for b in range(begin + 1, end):
                _grow(bounds[child], bin_box[b])
                _grow(centres[child], bin_centres[b])
        first[node] = used
        stack.append((used, start, middle))
        stack.append((used + 1, middle, stop))
        used += 2
    return bounds, first, count, order, used


@njit(cache=True)
def _boxes(tris):
    """[N, 6] min xyz, max xyz."""
    boxes = np.empty((len(tris), 6))
    for i in range(len(tris)):
        for a in range(3):
            boxes[i, a] = min(tris[i, 0, a], min(tris[i, 1, a], tris[i, 2, a]))
            boxes[i, a + 3] = max(tris[i, 0, a], max(tris[i, 1, a], tris[i, 2, a]))
    return boxes


@njit(cache=True, inline="always")
def _grow(box, other):
    """Make a box [6] include another, in place."""
    for a in range(3):
        box[a], box[a + 3] = min(box[a], other[a]), max(box[a + 3], other[a + 3])


@njit(cache=True)
def _sort_into_bins(boxes, own, bins, bin_n, bin_box, bin_centres, axis, low, scale):
    """Write the bin of each of the triangles ``own``, and of each bin its count and the boxes around what is in it."""
    bin_n[:] = 0
    bin_box[:, :3], bin_box[:, 3:] = FAR, -FAR
    bin_centres[:, :3], bin_centres[:, 3:] = FAR, -FAR
    for i in range(len(own)):
        box = boxes[own[i]]
        b = min(_BINS - 1, int((0.5 * (box[axis] + box[axis + 3]) - low) * scale))
        bins[i] = b
        bin_n[b] += 1
        _grow(bin_box[b], box)
        for a in range(3):
            centre = 0.5 * (box[a] + box[a + 3])
            bin_centres[b, a] = min(bin_centres[b, a], centre)
            bin_centres[b, a + 3] = max(bin_centres[b, a + 3], centre)


@njit(cache=True)
def _best_cut(bin_n, bin_box, cost):
    """The bin that starts the second half, by the surface-area heuristic; ``cost`` [2, bins] is scratch."""
    _costs(bin_n, bin_box, cost[0])
    _costs(bin_n[::-1], bin_box[::-1], cost[1, ::-1])
    best, best_cost = -1, FAR
    for b in range(_BINS - 1, 0, -1):
        if cost[0, b - 1] + cost[1, b] < best_cost:
            best, best_cost = b, cost[0, b - 1] + cost[1, b]
    return best


@njit(cache=True)
def _costs(bin_n, bin_box, cost):
    """Triangles in the bins up to each, times the area of the box around them; infinite where there are none."""
    x0, y0, z0, x1, y1, z1, n = FAR, FAR, FAR, -FAR, -FAR, -FAR, 0
    for b in range(_BINS):
        n += bin_n[b]
        x0, y0, z0 = min(x0, bin_box[b, 0]), min(y0, bin_box[b, 1]), min(z0, bin_box[b, 2])
        x1, y1, z1 = max(x1, bin_box[b, 3]), max(y1, bin_box[b, 4]), max(z1, bin_box[b, 5])
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        cost[b] = n * (dx * dy + dy * dz + dz * dx) if n > 0 else FAR


@njit(cache=True)
def _partition(own, bins, cut):
    """Sort ``own`` in place so that those whose bin is below ``cut`` come first; how many those are."""
    i, j = 0, len(own) - 1
    while i <= j:
        if bins[i] < cut:
            i += 1
        else:
            own[i], own[j] = own[j], own[i]
            bins[i], bins[j] = bins[j], bins[i]
            j -= 1
    return i


@njit(cache=True)
def trace_rays(origins, directions, hierarchy, exclude, t_out, id_out):
    """Nearest hit of arbitrary rays; improves ``t_out`` / ``id_out`` in place, so that two hierarchies chain.

    ``origins``, ``directions`` are [N, 3]; ``t`` counts in lengths of the given direction. Triangles whose ``owner``
    equals ``exclude`` do not exist.
    """
    (bounds, first, count, tris, _), owner, id_offset = hierarchy
    stack = np.empty(96, np.int64)
    for r in range(origins.shape[0]):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        ix = 1.0 / dx if dx != 0.0 else FAR
        iy = 1.0 / dy if dy != 0.0 else FAR
        iz = 1.0 / dz if dz != 0.0 else FAR
        best, best_id = t_out[r], id_out[r]
        depth = 1
        stack[0] = 0
        while depth > 0:
            depth -= 1
            node = stack[depth]
            x0, x1 = (bounds[node, 0] - ox) * ix, (bounds[node, 3] - ox) * ix
            y0, y1 = (bounds[node, 1] - oy) * iy, (bounds[node, 4] - oy) * iy
            z0, z1 = (bounds[node, 2] - oz) * iz, (bounds[node, 5] - oz) * iz
            near = max(min(x0, x1), min(y0, y1), min(z0, z1), 0.0)
            far = min(max(x0, x1), max(y0, y1), max(z0, z1))
            if near > far * (1.0 + 1e-12) + 1e-12 or near > best:
                continue
            if count[node] == 0:
                if first[node] > 0:
                    stack[depth] = first[node]
                    stack[depth + 1] = first[node] + 1
                    depth += 2
                continue
            for k in range(first[node], first[node] + count[node]):
                if owner[k] == exclude:
                    continue
                ax, ay, az = tris[k, 0, 0], tris[k, 0, 1], tris[k, 0, 2]
                e1x, e1y, e1z = tris[k, 1, 0] - ax, tris[k, 1, 1] - ay, tris[k, 1, 2] - az
                e2x, e2y, e2z = tris[k, 2, 0] - ax, tris[k, 2, 1] - ay, tris[k, 2, 2] - az
                px, py, pz = dy * e2z - dz * e2y, dz * e2x - dx * e2z, dx * e2y - dy * e2x
                det = e1x * px + e1y * py + e1z * pz
                if det == 0.0:
                    continue
                sx, sy, sz = ox - ax, oy - ay, oz - az
                u = (sx * px + sy * py + sz * pz) / det
                if u < 0.0 or u > 1.0:
                    continue
                qx, qy, qz = sy * e1z - sz * e1y, sz * e1x - sx * e1z, sx * e1y - sy * e1x
                v = (dx * qx + dy * qy + dz * qz) / det
                if v < 0.0 or u + v > 1.0:
                    continue
                t = (e2x * qx + e2y * qy + e2z * qz) / det
                if 0.0 < t < best:
                    best, best_id = t, k + id_offset
        t_out[r], id_out[r] = best, best_id


@njit(cache=True, inline="always")
def _slab(lo, hi, a, b, near, far):
    """Narrow [near, far] to where *some* direction component in [a, b] can be inside the slab [lo, hi]."""
    if lo > 0.0:
        if b <= 0.0:
            return FAR, -1.0
        near = max(near, lo / b)
        if a > 0.0:
            far = min(far, hi / a)
    elif hi < 0.0:
        if a >= 0.0:
            return FAR, -1.0
        near = max(near, hi / a)
        if b < 0.0:
            far = min(far, lo / b)
    else:
        if a > 0.0:
            far = min(far, hi / a)
        elif b < 0.0:
            far = min(far, lo / b)
    return near, far


@njit(cache=True, fastmath=_FAST)
def trace_packet(origin, dx, dy, dz, hierarchy, exclude, inv_t, hit, stack, stack_near):
    """Nearest hits of 64 rays from one origin, improving ``inv_t`` (1/t, 0 = nothing) and ``hit`` in place.

    ``dx, dy, dz``: [64] directions of any length; ``t`` counts in lengths of each direction. ``stack`` (int64) and
    ``stack_near`` (float64) are scratch of at least 96.
    """
    (bounds, first, count, tris, _), owner, id_offset = hierarchy
    ox, oy, oz = origin[0], origin[1], origin[2]
    x0, x1, y0, y1, z0, z1 = dx[0], dx[0], dy[0], dy[0], dz[0], dz[0]
    worst = inv_t[0]
    for k in range(1, PACKET):
        x0, x1 = min(x0, dx[k]), max(x1, dx[k])
        y0, y1 = min(y0, dy[k]), max(y1, dy[k])
        z0, z1 = min(z0, dz[k]), max(z1, dz[k])
        worst = min(worst, inv_t[k])
    mx, my, mz = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1)
    hx, hy, hz = 0.5 * (x1 - x0), 0.5 * (y1 - y0), 0.5 * (z1 - z0)
    depth = 1
    stack[0] = 0
    stack_near[0] = 0.0
    while depth > 0:
        depth -= 1
        node = stack[depth]
        if stack_near[depth] * worst > 1.0:
            continue  # every ray of the packet already hit something nearer
        if count[node] == 0:
            child = first[node]
            if child == 0:
                continue
            near_a, far_a = 0.0, FAR
            near_a, far_a = _slab(bounds[child, 0] - ox, bounds[child, 3] - ox, x0, x1, near_a, far_a)
            near_a, far_a = _slab(bounds[child, 1] - oy, bounds[child, 4] - oy, y0, y1, near_a, far_a)
            near_a, far_a = _slab(bounds[child, 2] - oz, bounds[child, 5] - oz, z0, z1, near_a, far_a)
            other = child + 1
            near_b, far_b = 0.0, FAR
            near_b, far_b = _slab(bounds[other, 0] - ox, bounds[other, 3] - ox, x0, x1, near_b, far_b)
            near_b, far_b = _slab(bounds[other, 1] - oy, bounds[other, 4] - oy, y0, y1, near_b, far_b)
            near_b, far_b = _slab(bounds[other, 2] - oz, bounds[other, 5] - oz, z0, z1, near_b, far_b)
            if near_a > near_b:
                child, other = other, child
                near_a, near_b = near_b, near_a
                far_a, far_b = far_b, far_a
            # A hair of slack: rounding must never lose a triangle that lies in the face of its box.
            if near_b <= far_b * (1.0 + 1e-9) and near_b * worst <= 1.0:
                stack[depth], stack_near[depth] = other, near_b * (1.0 - 1e-9)
                depth += 1
            if near_a <= far_a * (1.0 + 1e-9) and near_a * worst <= 1.0:
                stack[depth], stack_near[depth] = child, near_a * (1.0 - 1e-9)
                depth += 1
            continue
        touched = False
        for i in range(first[node], first[node] + count[node]):
            if owner[i] == exclude:
                continue
            ax, ay, az = tris[i, 0, 0] - ox, tris[i, 0, 1] - oy, tris[i, 0, 2] - oz
            bx, by, bz = tris[i, 1, 0] - ox, tris[i, 1, 1] - oy, tris[i, 1, 2] - oz
            cx, cy, cz = tris[i, 2, 0] - ox, tris[i, 2, 1] - oy, tris[i, 2, 2] - oz
            # Normals of the planes through the origin and each edge.
            px, py, pz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
            det = ax * px + ay * py + az * pz
            if det >= 0.0:
                continue  # seen from behind, or edge-on
            qx, qy, qz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
            rx, ry, rz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            s = 1.0 / det
            px, py, pz = px * s, py * s, pz * s
            if px * mx + py * my + pz * mz + abs(px) * hx + abs(py) * hy + abs(pz) * hz < 0.0:
                continue
            qx, qy, qz = qx * s, qy * s, qz * s
            if qx * mx + qy * my + qz * mz + abs(qx) * hx + abs(qy) * hy + abs(qz) * hz < 0.0:
                continue
            rx, ry, rz = rx * s, ry * s, rz * s
            if rx * mx + ry * my + rz * mz + abs(rx) * hx + abs(ry) * hy + abs(rz) * hz < 0.0:
                continue
            # p + q + r is the triangle's own plane divided by its distance: d . (p + q + r) = 1/t.
            number = i + id_offset
            for k in range(PACKET):
                u = px * dx[k] + py * dy[k] + pz * dz[k]
                v = qx * dx[k] + qy * dy[k] + qz * dz[k]
                w = rx * dx[k] + ry * dy[k] + rz * dz[k]
                new = u + v + w
                ok = (min(u, min(v, w)) >= 0.0) & (new > inv_t[k])
                inv_t[k] = new if ok else inv_t[k]
                hit[k] = number if ok else hit[k]
            touched = True
        if touched:
            worst = inv_t[0]
            for k in range(1, PACKET):
                worst = min(worst, inv_t[k])
