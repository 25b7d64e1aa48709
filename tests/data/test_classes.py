import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.data import class_table, display_names


def test_class_table():
    table = class_table()
    assert len(table) == 1000
    assert [row.index for row in table] == list(range(1000))
    wnids = [row.wnid for row in table]
    assert wnids == sorted(set(wnids))
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert len({row.name for row in table}) == 1000
    assert all(row.name.strip() == row.name != "" for row in table)


def test_known_rows():
    known = {
        0: ("n01440764", "tench"),
        1: ("n01443537", "goldfish"),
        134: ("n02012849", "crane (bird)"),
        207: ("n02099601", "golden retriever"),
        281: ("n02123045", "tabby"),
        517: ("n03126707", "crane (machine)"),
        639: ("n03710721", "maillot, tank suit"),
        999: ("n15075141", "toilet tissue"),
    }
    table = class_table()
    assert {index: tuple(table[index][1:]) for index in known} == known


def test_table_is_in_the_order_of_tfds():
    import importlib.util

    spec = importlib.util.find_spec("tensorflow_datasets")
    labels = Path(spec.submodule_search_locations[0]) / "datasets" / "imagenet2012" / "labels.txt"
    assert [row.wnid for row in class_table()] == labels.read_text().split()


def test_display_names():
    assert display_names(("n01443537", "my class")) == ("goldfish", "my class")


IMPORT_DATA = """
import os, sys
import jaxcnn.data, jaxcnn.data.preparation.imagenet
from jaxcnn.data.tensorflow import load_tensorflow
heavy = {'tensorflow', 'tensorflow_datasets', 'jax', 'sklearn', 'numba'} & set(sys.modules)
assert not heavy, heavy
tf = load_tensorflow()
assert 'TF_USE_LEGACY_KERAS' not in os.environ
"""


def test_heavy_packages_are_imported_on_demand(tmp_path):
    """TensorFlow is imported with the variable that keeps it from importing Keras."""
    (tmp_path / "tensorflow.py").write_text(
        "import os, unittest.mock\nassert os.environ['TF_USE_LEGACY_KERAS'] == '1'\n"
        "config = unittest.mock.MagicMock()\n"
    )
    run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + IMPORT_DATA)


@pytest.mark.slow
def test_tensorflow_does_not_import_keras_until_it_is_used():
    run(
        IMPORT_DATA + "heavy = {'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert tf.keras.losses.mse"
    )


def run(code):
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment)
