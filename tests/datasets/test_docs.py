"""The examples of docs/datasets.md run."""

from support.doc_examples import run_examples
from support.opv2v_files import write_dataset


def test_example_of_the_datasets_page(tmp_path):
    images, depth = write_dataset(tmp_path, frames=1)
    found = run_examples("datasets.md", IMAGES_ROOT=images, DEPTH_ROOT=depth)
    assert found["batch"].inputs.shape == (1, 2, 126, 504)
