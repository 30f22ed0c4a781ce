"""The examples of docs/datasets.md and docs/cache.md run."""

from support.doc_examples import run_examples
from support.opv2v_files import write_dataset

from coop3d.datasets.cache import CacheBuilder
from coop3d.datasets.opv2v import OPV2VIndex
from coop3d.datasets.recipe import PanoramaRecipe
from coop3d.geometry import EquirectangularCamera


def test_example_of_the_datasets_page(tmp_path):
    images, depth = write_dataset(tmp_path, frames=1)
    found = run_examples("datasets.md", IMAGES_ROOT=images, DEPTH_ROOT=depth)
    assert found["batch"].inputs.shape == (1, 2, 126, 504)


def test_example_of_the_cache_page(tmp_path):
    images, depth = write_dataset(tmp_path, frames=1)
    index, recipe = OPV2VIndex(images, "train", depth), PanoramaRecipe(EquirectangularCamera(112, 28))
    CacheBuilder(tmp_path / "train.h5", index, recipe).build(progress=False)
    found = run_examples("cache.md", CACHE=tmp_path / "train.h5")
    assert found["batch"].inputs.shape == (1, 2, 28, 112)
