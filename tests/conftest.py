"""Settings of every test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.browser import Browser, shared_browser

# Sums depend in their last bits on the number of threads; tests that compare bits need it fixed, and two test
# processes on two cores are fastest with one thread each.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Path:
    """A finished run of the toy model, to read."""
    from support.toy_evaluation import train_toy  # here: only some tests need to import the trainer

    return train_toy(tmp_path_factory.mktemp("toy_run"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Callable[[tuple[int, int]], Browser]]:
    """One for all modules: a start takes seconds."""
    with shared_browser(lambda: tmp_path_factory.mktemp("browser")) as reset:
        yield reset


@pytest.fixture(scope="module")
def browser(request, chromium) -> Browser:
    """As if just started, of the size that the module names ``WINDOW`` or of a small laptop's."""
    return chromium(getattr(request.module, "WINDOW", (1366, 768)))


@pytest.fixture
def quick_forecast(monkeypatch) -> None:
    """Forecasts of memory as a GPU or a processor with AVX-512 makes them.

    Other processors take a way round slow convolutions whose thousands of small steps a dry run repeats for seconds.
    """
    monkeypatch.setattr("coop3d.models.convolution._has_slow_weight_gradient", lambda *_: False)


@pytest.fixture(autouse=True, scope="session")
def own_index_cache(tmp_path_factory):
    """Indices of test data are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOP3D_CACHE_DIR", str(tmp_path_factory.mktemp("index_cache")))
        yield
