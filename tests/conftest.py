"""Settings of every test."""

import pytest
import torch

# Sums depend in their last bits on the number of threads; tests that compare bits need it fixed, and two test
# processes on two cores are fastest with one thread each.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_index_cache(tmp_path_factory):
    """Indices of test data are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOP3D_CACHE_DIR", str(tmp_path_factory.mktemp("index_cache")))
        yield
