"""What the browser tests of the 3D page share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browser import Browser, open_browser
from support.street_scenes import rich_scene

from coop3d.visualization import Scene, write_scene_html


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Of a small laptop's size."""
    with open_browser(tmp_path_factory.mktemp("profile"), size=(1366, 768)) as browser:
        yield browser


@pytest.fixture(scope="module")
def rich() -> Scene:
    """A scene with everything that a page can show."""
    return rich_scene()


@pytest.fixture(scope="module")
def page(tmp_path_factory, rich):
    """Its page."""
    return write_scene_html(tmp_path_factory.mktemp("rich") / "scene.html", rich)
