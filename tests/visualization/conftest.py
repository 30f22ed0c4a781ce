"""What the browser tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.browser import Browser, shared_browser
from support.street_scenes import rich_scene

from coop3d.visualization import Scene, write_scene_html


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Callable[[tuple[int, int]], Browser]]:
    """One for all modules: a start takes seconds."""
    with shared_browser(lambda: tmp_path_factory.mktemp("browser")) as reset:
        yield reset


@pytest.fixture(scope="module")
def browser(request, chromium) -> Browser:
    """As if just started, of the size that the module names ``WINDOW`` or of a small laptop's."""
    return chromium(getattr(request.module, "WINDOW", (1366, 768)))


@pytest.fixture(scope="module")
def rich() -> Scene:
    """A scene with everything that a page can show."""
    return rich_scene()


@pytest.fixture(scope="module")
def page(tmp_path_factory, rich):
    """Its page."""
    return write_scene_html(tmp_path_factory.mktemp("rich") / "scene.html", rich)
