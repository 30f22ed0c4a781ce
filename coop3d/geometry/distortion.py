"""OpenCV's lens distortion (rational radial and tangential) on normalised image coordinates, and its inverse.

Coefficients are in OpenCV's order k1, k2, p1, p2[, k3[, k4, k5, k6]]. Coordinates are x / z and y / z.

A fitted polynomial is only meaningful up to the radius where it stops growing. Beyond, directions far off the axis
would fold back into the image; they are outside the model and get NaN.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any  # a numpy array or a torch tensor; the same kind comes back
Coefficients = tuple[float, ...]

LENGTHS = (4, 5, 8)
_MOST_STEPS = 25


def check_coefficients(coefficients: Coefficients) -> None:
    """Raise ValueError unless these are 4, 5 or 8 finite numbers (or none: no distortion)."""
    if coefficients and (len(coefficients) not in LENGTHS or not all(map(math.isfinite, coefficients))):
        raise ValueError(
            f"distortion is {list(coefficients)}, expected finite k1, k2, p1, p2[, k3[, k4, k5, k6]] (OpenCV's order)"
        )


def distort(x: Array, y: Array, coefficients: Coefficients) -> tuple[Array, Array]:
    """Ideal to distorted coordinates, any shape; NaN beyond `radius_limit`."""
    xp = array_namespace(x, y)
    inside = x * x + y * y < radius_limit(coefficients) ** 2
    xd, yd = _apply(x, y, coefficients)
    nan = xp.full_like(xd, math.nan)
    return xp.where(inside, xd, nan), xp.where(inside, yd, nan)


def undistort(x: Array, y: Array, coefficients: Coefficients) -> tuple[Array, Array]:
    """Distorted to ideal coordinates by Newton's method, to round-off.

    NaN where no direction within `radius_limit` is seen, e.g. in the black corners of a wide lens.
    """
    xp = array_namespace(x, y)
    limit = radius_limit(coefficients)
    tolerance = 16 * xp.finfo(x.dtype).eps
    xi, yi = _start(x, y, coefficients, limit)
    for _ in range(_MOST_STEPS):
        u, v = _apply(xi, yi, coefficients)
        du, dv = u - x, v - y
        a, b, c, d = _jacobian(xi, yi, coefficients)
        det = a * d - b * c
        det = xp.where(xp.abs(det) > 1e-12, det, xp.full_like(det, 1e-12))
        step_x, step_y = (d * du - b * dv) / det, (a * dv - c * du) / det
        xi, yi = _within(xi - step_x, yi - step_y, limit)
        if not bool(xp.any(xp.hypot(step_x, step_y) > tolerance * (1.0 + xp.hypot(xi, yi)))):
            break
    u, v = _apply(xi, yi, coefficients)
    solved = xp.hypot(u - x, v - y) < 64 * tolerance * (1.0 + xp.hypot(x, y))
    nan = xp.full_like(xi, math.nan)
    return xp.where(solved, xi, nan), xp.where(solved, yi, nan)


@lru_cache(maxsize=64)
def radius_limit(coefficients: Coefficients) -> float:
    """Radius (tangent of the angle off the axis) up to which the radial distortion grows; may be infinite."""
    k1, k2, _, _, k3, k4, k5, k6 = _eight(coefficients)
    poly = np.polynomial.Polynomial  # in s = r^2
    N, D = poly([1.0, k1, k2, k3]), poly([1.0, k4, k5, k6])
    s = poly([0.0, 1.0])
    growth = (N + 2 * s * N.deriv()) * D - 2 * s * N * D.deriv()  # d/dr of r N / D, times D^2
    roots = np.concatenate([growth.trim().roots(), D.trim().roots()])
    turning = [z.real for z in roots if abs(z.imag) < 1e-9 * (1 + abs(z.real)) and z.real > 0]
    return math.sqrt(min(turning)) if turning else math.inf


def _eight(coefficients: Coefficients) -> tuple[float, ...]:
    return (*coefficients, *(0.0,) * (8 - len(coefficients)))


def _radial(r2: Array, coefficients: Coefficients) -> tuple[Array, Array]:
    """The radial factor and its derivative by r^2."""
    k1, k2, _, _, k3, k4, k5, k6 = _eight(coefficients)
    n, dn = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), k1 + r2 * (2 * k2 + r2 * 3 * k3)
    d, dd = 1 + r2 * (k4 + r2 * (k5 + r2 * k6)), k4 + r2 * (2 * k5 + r2 * 3 * k6)
    return n / d, (dn * d - n * dd) / (d * d)


def _apply(x: Array, y: Array, coefficients: Coefficients) -> tuple[Array, Array]:
    p1, p2 = coefficients[2:4]
    r2 = x * x + y * y
    radial, _ = _radial(r2, coefficients)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _jacobian(x: Array, y: Array, coefficients: Coefficients) -> tuple[Array, Array, Array, Array]:
    """dx'/dx, dx'/dy, dy'/dx, dy'/dy."""
    p1, p2 = coefficients[2:4]
    radial, slope = _radial(x * x + y * y, coefficients)
    across = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    return (
        radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
        across,
        across,
        radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
    )


def _start(x: Array, y: Array, coefficients: Coefficients, limit: float) -> tuple[Array, Array]:
    """First guess of the ideal coordinates: the radius, found by bisection, is too short by ``limit / 64`` at most.

    Near the limit the distortion hardly grows, so a step of Newton's method from the far side would lead anywhere.
    """
    if math.isinf(limit):
        return x, y
    xp = array_namespace(x, y)
    distorted = xp.hypot(x, y)
    r = xp.zeros_like(distorted)
    for k in range(1, 7):
        longer = r + limit / 2**k
        r = xp.where(longer * _radial(longer * longer, coefficients)[0] <= distorted, longer, r)
    scale = r / xp.clip(distorted, min=1e-12)
    return x * scale, y * scale


def _within(x: Array, y: Array, limit: float) -> tuple[Array, Array]:
    """Pull a guess back to just inside the radius where the distortion can be inverted."""
    if math.isinf(limit):
        return x, y
    xp = array_namespace(x, y)
    most = limit * (1.0 - 1e-6)
    scale = most / xp.clip(xp.hypot(x, y), min=most)
    return x * scale, y * scale
