"""VGG E at full width, 575 MB: what an import and a load hold in memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxcnn.models import build
from jaxcnn.weights.kernel_layout import to_stored
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from jaxcnn.weights.weight_exports import export_weights
from tests.weights.caffe_writer import Layer, caffemodel

pytestmark = pytest.mark.slow
MODEL = {"name": "vgg", "column": "E", "num_classes": 1000}
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
IMPORT = """
import json, re, sys
from jaxcnn.training.imported_run import write_imported
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.read import read_weights
write_imported(sys.argv[2], read_weights(sys.argv[1], Choices(source=sys.argv[3])))
# Not ru_maxrss, which a process inherits from the one that started it.
print(json.dumps(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024))
"""
LOAD = """
import json, re, sys
import jaxcnn
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = private()
run = jaxcnn.load(sys.argv[1])
print(json.dumps(private() - before))
"""


def drawn(path, shape):
    generator = np.random.default_rng(sum(path.encode()))
    return generator.standard_normal(shape, np.float32) * np.float32(0.02)


@pytest.fixture(scope="module")
def leaves():
    shapes = param_shapes(build(**MODEL))
    return {path: Leaf(s, lambda p=path, s=s: drawn(p, s)) for path, s in shapes.items()}


def write_pth(path, leaves):
    names = tuple(f"class_{i:03}" for i in range(1000))
    weights = NetWeights(MODEL, leaves, MEAN, names, {"source": "torchvision"})
    export_weights(weights, "torchvision", path)


def write_caffemodel(path, leaves):
    layers = []
    for name in dict.fromkeys(leaf.split("/")[0] for leaf in leaves):
        layouts = {"fc6": "O(IHW)", "fc7": "OI", "fc8": "OI"}
        kernel = to_stored(leaves[f"{name}/kernel"].read(), layouts.get(name, "OIHW"))
        kind = "InnerProduct" if name in layouts else "Convolution"
        layers.append(Layer(name, kind, blobs=(kernel, leaves[f"{name}/bias"].read())))
    path.write_bytes(caffemodel(layers))


def child(program, *arguments):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    )


@pytest.mark.parametrize(
    ("kind", "write", "source"),
    [("pth", write_pth, "torchvision"), ("caffemodel", write_caffemodel, "oxford")],
)
def test_an_import_holds_at_most_1_3_times_the_file_and_a_load_maps_it(
    kind, write, source, leaves, tmp_path
):
    path, folder = tmp_path / f"e.{kind}", tmp_path / "imported"
    write(path, leaves)
    size = path.stat().st_size
    assert size > 574 * 10**6
    assert child(IMPORT, path, folder, source) < 1.3 * size
    # fc6 alone is 0.7 of the file; the modules that a load imports take 0.1 GB.
    assert child(LOAD, folder) < 0.3 * size
