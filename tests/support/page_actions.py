"""What tests do to the 3D page in a browser, and what they see of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from support.browser import Browser

IDLE = "!viewer.busy && !viewer.dirty && !viewer.moving"
FIELD_OF_VIEW = np.radians(50)  # vertical, as cloud.js says


def show(browser: Browser, page: Path, fragment: str = "") -> None:
    """Open a page and wait until it is drawn; forget console and requests of the page before."""
    browser.console(), browser.requests()
    browser.open(page, fragment)
    browser.wait("document.documentElement.dataset.ready")


def picture(browser: Browser, folder: Path) -> np.ndarray:
    """[H, W, 3] RGB of what the 3D view shows."""
    browser.wait(IDLE)
    browser.screenshot(folder / "shot.png")
    box = browser.run("const r = viewer.canvas.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]")
    x, y, width, height = (int(v) for v in box)
    return cv2.imread(str(folder / "shot.png"))[y : y + height, x : x + width, ::-1].astype(int)


def points_drawn(browser: Browser) -> int:
    """How many points the view says it shows."""
    browser.wait(IDLE)
    return browser.run("return viewer.stats.points")


def set_value(browser: Browser, control: str, value: object) -> None:
    """Move a slider or make a choice, as a hand would."""
    browser.run(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        control,
        value,
    )


def click(browser: Browser, control: str) -> None:
    """Click the element of this id."""
    browser.run("document.getElementById(arguments[0]).click()", control)


def look(browser: Browser, name: str) -> list[float]:
    """Click the button of a camera; returns the eye in upright axes."""
    browser.run("document.querySelector(`#cameras [data-view=${arguments[0]}]`).click()", name)
    browser.wait(IDLE)
    return browser.run("return viewer.eye()")


def press(browser: Browser, key: str, **modifiers: bool) -> None:
    """Press a key with the page itself in focus."""
    event = {"key": key, "bubbles": True, **modifiers}
    browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', arguments[0]))", event)
    browser.wait(IDLE)


def move_pointer(browser: Browser, selector: str, x: float, y: float) -> None:
    """Move the pointer over an element, to CSS pixels from its corner."""
    browser.run(
        "const e = document.querySelector(arguments[0]), r = e.getBoundingClientRect();"
        "e.dispatchEvent(new PointerEvent('pointermove',"
        " {bubbles: true, clientX: r.x + arguments[1], clientY: r.y + arguments[2]}))",
        selector,
        x,
        y,
    )


def project(browser: Browser, points: np.ndarray) -> np.ndarray:
    """[N, 3] upright metres to [N, 2] CSS pixels (right, down) of the 3D view, computed here from the camera alone."""
    c: dict[str, Any] = browser.run("return viewer.camera")
    width, height = browser.run("return [viewer.canvas.clientWidth, viewer.canvas.clientHeight]")
    az, el = c["azimuth"], c["elevation"]
    forward = np.array([np.sin(az) * np.cos(el), np.cos(az) * np.cos(el), -np.sin(el)])
    right = np.array([np.cos(az), -np.sin(az), 0.0])
    away = points - (np.array(c["target"]) - c["distance"] * forward)
    across = np.stack([away @ right, away @ -np.cross(right, forward)], axis=-1)
    scale = height / 2 / np.tan(FIELD_OF_VIEW / 2)
    return np.array([width, height]) / 2 + scale * across / (away @ forward)[:, None]
