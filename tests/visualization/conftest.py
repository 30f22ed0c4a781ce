"""What the tests of pages share."""

from __future__ import annotations

import pytest
from support.street_scenes import rich_scene

from coop3d.visualization import Scene, write_scene_html


@pytest.fixture(scope="module")
def rich() -> Scene:
    """A scene with everything that a page can show."""
    return rich_scene()


@pytest.fixture(scope="module")
def page(tmp_path_factory, rich):
    """Its page."""
    return write_scene_html(tmp_path_factory.mktemp("rich") / "scene.html", rich)
